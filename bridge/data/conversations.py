"""Conversations about any number of images -> `Dialogue`: LLaVA's JSON, JSON lines, and the hub's parquet.

Three ways to write turns are known: LLaVA's `conversations` of {from, value}, `messages` of {role, content}, and the
`texts` of {user, assistant} of the_cauldron and FineVision. Texts are trained on to the letter.

A placeholder `<image>` in a question marks where one of the record's images stands:

    "<image>\\nWhat is it?"               with 1 image: in front
    "Compare <image> with <image>."      with 2 images: each in its place
    "What is it?"                        with 1 image, and no placeholder in the record: in front
    "<image>\\nWhat is it?"               with 0 or 2 images: the record cannot be used
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridge.data.conversation_files import conversation_files, listed, records
from bridge.data.example import Dialogue
from bridge.data.image_folder import ImageFolder
from bridge.data.pictures import Picture, TableImage
from vlm.errors import UserError
from vlm.llms.prompt import PLACEHOLDER

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class BadRecord(Exception):
    """Says why a record cannot be used. kind: of the fault, as quarantine.jsonl counts them."""

    def __init__(self, detail: str, kind: str = "malformed record"):
        super().__init__(detail)
        self.kind = kind


# Is told of a record that cannot be used: the id that it would have, its file, its number there from 0 on, and why.
Report = Callable[[str, Path, int, BadRecord], None]


def refuse(key: str, file: Path, index: int, bad: BadRecord) -> None:
    """A `Report` that stops at the first bad record."""
    raise UserError(f"{file}, record {index}: {bad}")


def read_conversations(source: str, images: str | None = None, report: Report = refuse) -> list[Dialogue]:
    """Every conversation of `source`, with the ids `{record}`, or `{file}:{record}` if there are several files; a file
    is called by its stem, or by its path below the folder of all if two have one stem.

    images: the folder that image names start from, by default the file's own. In one that is given, links to images
    elsewhere are followed.
    Raises: UserError if `source` holds none, or a file cannot be read; what `report` raises.
    """
    files = conversation_files(source)
    found: list[Dialogue] = []
    for file, prefix in zip(files, _prefixes(files)):
        folder = _Images(Path(images) if images else file.parent, links=bool(images))
        for index, (record, pictures) in enumerate(records(file)):
            key = f"{prefix}{index}"
            try:
                found.append(_dialogue(key, record, pictures, folder))
            except BadRecord as bad:
                report(key, file, index, bad)
    if not found:
        raise UserError(f"{source} holds no conversation that can be used")
    return found


def _prefixes(files: Sequence[Path]) -> list[str]:
    """What the ids of each file's conversations begin with: the same wherever the files lie, and each another.

    x.json -> ""    x.json, y.json -> "x:", "y:"    a/x.json, b/x.json -> "a/x.json:", "b/x.json:"
    """
    if len(files) == 1:
        return [""]
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        paths = [file.absolute() for file in files]
        root = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(root).as_posix() for path in paths]
    return [f"{name}:" for name in names]


class _Images:
    """Finds images by name; the folder is looked for when the first is asked for."""

    def __init__(self, root: Path, links: bool):
        self._root, self._links = root, links
        self._folder: ImageFolder | None = None

    def find(self, name: str) -> Path:
        if self._folder is None:
            self._folder = ImageFolder(self._root, self._links)
        try:
            path = self._folder.find(name)
        except UserError as error:  # the name leads out of the folder
            raise BadRecord(str(error)) from None
        if path in self._folder.missing:
            raise BadRecord(f"its image {path} is missing", "missing image")
        return path


def _dialogue(key: str, record: Any, pictures: list[Any] | None, folder: _Images) -> Dialogue:
    """Raises: BadRecord."""
    if not isinstance(record, dict):
        raise BadRecord(f"it is no object but {str(record)[:40]!r}")
    for kind in ("video", "audio"):
        if listed(record.get(kind)):
            raise BadRecord(f"it is about a {kind}, which cannot be trained on")
    images = _pictures(record, pictures, folder)
    system, turns = _turns(_messages(record))
    written = sum(question.count(PLACEHOLDER) for question, _ in turns)
    if written == 0 and images:
        question, answer = turns[0]
        turns = ((PLACEHOLDER * len(images) + "\n" + question, answer), *turns[1:])
    elif written != len(images):
        raise BadRecord(f"its questions say {PLACEHOLDER} {written} times, and it has {len(images)} images")
    return Dialogue(key, images, turns, system)


def _pictures(record: dict[str, Any], pictures: list[Any] | None, folder: _Images) -> tuple[Picture, ...]:
    """The record's images. Some records name one in `images` and again in `image`: it is there once.

    {"images": ["a.jpg", "b.jpg"], "image": "a.jpg"} -> a.jpg, b.jpg
    {"images": ["a.jpg", "a.jpg"]}                   -> a.jpg, a.jpg
    """
    if pictures is not None:
        return tuple(_picture(each, folder) for each in pictures)
    several = [_picture(each, folder) for each in listed(record.get("images"))]
    one = [_picture(each, folder) for each in listed(record.get("image"))]
    return (*several, *(picture for picture in one if picture not in several))


def _picture(given: Any, folder: _Images) -> Picture:
    if isinstance(given, TableImage):
        return given
    if not isinstance(given, str):
        raise BadRecord(f"an image is named by {str(given)[:40]!r}, not by a text")
    return folder.find(given)


def _messages(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What is said, as (user, assistant or system, text)."""
    for name, speaker, text in (("conversations", "from", "value"), ("messages", "role", "content")):
        if isinstance(record.get(name), list):
            return [_message(message, speaker, text) for message in record[name]]
    if isinstance(record.get("texts"), list):
        said: list[tuple[str, str]] = []
        for turn in record["texts"]:
            said += [("user", _text(turn, "user")), ("assistant", _text(turn, "assistant"))]
        return said
    raise BadRecord(f"it has no list of conversations, messages or texts, but the fields {', '.join(record)[:80]}")


def _message(message: Any, speaker: str, text: str) -> tuple[str, str]:
    name = _text(message, speaker)
    if name not in SPEAKERS:
        raise BadRecord(f"a turn is from {name[:20]!r}: known are {', '.join(SPEAKERS)}")
    return SPEAKERS[name], _text(message, text)


def _text(turn: Any, name: str) -> str:
    """A turn's field of text, which is not blank and valid Unicode."""
    text = turn.get(name) if isinstance(turn, dict) else None
    if not isinstance(text, str):
        raise BadRecord(f"a turn has no text {name!r}")
    if not text.strip():
        raise BadRecord(f"a turn's {name!r} is empty", "empty question or answer")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a character, which no tokenizer takes
        raise BadRecord(f"a turn's {name!r} is not valid Unicode text ({text[:40]!a})") from None
    return text


def _turns(messages: list[tuple[str, str]]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The system's text, or none, and questions with their answers."""
    system = ""
    if messages and messages[0][0] == "system":
        system, messages = messages[0][1], messages[1:]
    speakers = [speaker for speaker, _ in messages]
    if not messages or speakers != ["user", "assistant"] * (len(messages) // 2):
        raise BadRecord(f"its turns must alternate user, assistant, but are {', '.join(speakers[:6]) or 'none'}")
    texts = [text for _, text in messages]
    return system, tuple(zip(texts[0::2], texts[1::2]))
