"""Where a caption stands: in a file or column of its own, or in a field of a JSON document; alone, or in a list.

txt                 the file KEY.txt, or the column `txt`
json:caption        the field `caption` of KEY.json, or of the column `json`
json:sentences.raw  the field `raw` of each entry of the list `sentences`: several captions of one image
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from vlm.errors import UserError

CAPTION_BYTES = 65_536  # that are read of a caption: 10,000 characters of any script, and some white space

Caption = bytes | list[bytes] | None  # one caption, several of the same image, or none


class BadSample(Exception):
    """A sample that cannot be used; its only argument is the reason."""


class CaptionPlace(NamedTuple):
    """A file's suffix or a column, and the path to a field inside its JSON; "" is the whole document."""

    name: str
    field: str = ""


def parse_place(given: str) -> CaptionPlace:
    """`json:a.b` -> ("json", "a.b"). Raises: UserError if nothing stands before or behind the colon."""
    name, colon, field = given.partition(":")
    if not name or (colon and not field):
        raise UserError(f"--caption-column {given}: give SUFFIX_OR_COLUMN, or SUFFIX_OR_COLUMN:FIELD as json:caption")
    return CaptionPlace(name, field)


def from_json(document: bytes, field: str) -> Caption:
    """The caption or captions in a field of a JSON document. Raises: BadSample if there is none."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):  # broken JSON, no UTF-8, or brackets 100,000 deep
        raise BadSample("caption is not valid JSON") from None
    return from_value(content, field)


def from_value(content: Any, field: str) -> Caption:
    """The caption or captions in a field of what JSON or a table holds. Raises: BadSample if there is none."""
    found = look_up(content, field) if field else content
    if found is None:
        return None
    texts = found if isinstance(found, list) else [found]
    if not all(text is None or isinstance(text, str | bytes) for text in texts):
        raise BadSample(f"caption is no text{f' in the field {field}' if field else ''}")
    encoded = [_encoded(text)[:CAPTION_BYTES] for text in texts if text is not None]
    return encoded if isinstance(found, list) else encoded[0]


def _encoded(text: str | bytes) -> bytes:
    """A caption's bytes; a column of binary holds them as they are."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def look_up(content: Any, field: str) -> Any:
    """The value at `a.b` of nested objects; of a list of objects, the list of their values.

    Raises: BadSample if there is no such field.
    """
    if isinstance(content, list):
        return [value for entry in content for value in _as_list(look_up(entry, field))]
    if not isinstance(content, dict):
        raise BadSample(f"no field {field}")
    if field in content:
        return content[field]
    first, _, rest = field.partition(".")
    if not rest or first not in content:
        raise BadSample(f"no field {field}")
    return look_up(content[first], rest)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def text_fields(names: Sequence[str]) -> str:
    """["alt", "caption"], as `field_names` gives them -> "text fields alt, caption: name one, as ..."."""
    example = "caption" if "caption" in names else names[0]
    return f"text fields {', '.join(names[:12])}: name one, as --caption-column json:{example}"


def field_names(content: Any) -> list[str]:
    """The names under which text is found in a JSON document: `caption`, `meta.title`, `sentences.raw`."""
    if isinstance(content, list):
        return sorted({name for entry in content for name in field_names(entry)})
    names: list[str] = []
    for name, value in content.items() if isinstance(content, dict) else ():
        inner = field_names(value)
        texts = [text for text in _as_list(value) if isinstance(text, str)]
        names += [f"{name}.{further}" for further in inner] if inner else [name] * bool(texts)
    return names
