"""Members of a large JSON object, one at a time: GQA's file of 1.1 GB never lies in memory whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.reading import check_regular

READ = 1 << 23  # characters at a time


def members(path: Path, inside: str | None = None) -> Iterator[tuple[str, Any]]:
    """(key, value) of each member of the object in `path`; of the list under the key `inside`, element by element.

    If the file is a bare list it is read as the one under `inside`.
    Raises: UserError if the file is missing, is not JSON, or holds neither.
    """
    try:
        check_regular(path)
        with open(path, encoding="utf-8-sig") as file:
            text = _Text(file)
            if text.peek() == "[":
                if inside is None:
                    raise UserError(f"{path} holds a list; needed is one object, key -> record: fetch it again")
                yield from _elements(text, inside)
            else:
                yield from _members(text, inside)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UserError:  # of who reads on
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): fetch or write it again") from None


def _members(text: "_Text", inside: str | None) -> Iterator[tuple[str, Any]]:
    text.take("{")
    while not text.ends("}"):
        key = text.value()
        text.take(":")
        if key == inside and text.peek() == "[":
            yield from _elements(text, key)
        else:
            yield key, text.value()
        text.separate("}")


def _elements(text: "_Text", key: str) -> Iterator[tuple[str, Any]]:
    """Each element of the list that begins here, with the key that it stands under."""
    text.take("[")
    while not text.ends("]"):
        yield key, text.value()
        text.separate("]")


class _Text:
    """A window of the file, from the place that is parsed on."""

    def __init__(self, file):
        self._file, self._text, self._at = file, "", 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, mark: str) -> None:
        if self.peek() != mark:
            raise json.JSONDecodeError(f"Expecting {mark!r}", self._text[self._at :][:40], 0)
        self._at += 1

    def ends(self, mark: str) -> bool:
        """Whether the object or list ends here; its end is then taken."""
        found = self.peek() == mark
        self._at += found
        return found

    def separate(self, end: str) -> None:
        """Take the comma behind a member, unless it is the last."""
        if self.peek() != end:
            self.take(",")

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if end < len(self._text) or not self._more():  # a number at the very end may go on
                self._at = end
                return value

    def _more(self) -> bool:
        """Read on, twice as much if one value has filled the window; False at the end of the file."""
        rest = self._text[self._at :]
        new = self._file.read(max(READ, len(rest)))
        self._text, self._at = rest + new, 0
        return bool(new)
