"""The pictures of a chat: paths as people type them and as terminals paste them, and what is looked at now."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from vlm.errors import UserError
from vlm.images import load_image

FILE_URL = "file://"


def picture_paths(text: str) -> list[str]:
    """The paths that a line names.

    A file that a terminal gets by drag and drop arrives quoted, with backslashes or as a URL:
        '/home/me/my dog.jpg'    /home/me/my\\ dog.jpg    file:///home/me/my%20dog.jpg    ~/dog.jpg
    A line that names a file as it stands, spaces and all, is this one path; else it is split as a shell does.
    """
    text = text.strip()
    for whole in (text, _local(text)):
        if _exists(whole):
            return [whole]
    try:
        parts = [_local(part) for part in shlex.split(text)]
    except ValueError:  # a quote that is not closed, as in it's.jpg
        parts = []
    if not any(map(_exists, parts)) and FILE_URL not in text and not text.startswith(("'", '"')):
        whole = _local(text.replace("\\ ", " "))
        return parts if len(parts) == 1 else [whole]  # a mistake is reported of the name as it was typed
    return parts or [_local(text)]


def _local(name: str) -> str:
    """A name or a file:// URL as a path of this machine; ~ is the home folder. Raises: UserError for another's."""
    if name.lower().startswith(FILE_URL):
        host, slash, path = name[len(FILE_URL) :].partition("/")
        if host not in ("", "localhost"):
            raise UserError(f"the picture {name} lies on another machine: copy it here and give its path")
        return unquote(slash + path)
    if name.lower().startswith(("http://", "https://")):
        raise UserError(f"{name} is an address, and pictures are not fetched: download it and give its path")
    if name.startswith("~") and not _exists(name):
        try:
            return str(Path(name).expanduser())
        except RuntimeError:  # no such user
            return name
    return name


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):  # too long, or a NUL character
        return False


@dataclass(frozen=True)
class Pictures:
    """What is looked at: images and where they came from. failed: why there is none although one was asked for."""

    paths: tuple[str, ...] = ()
    images: tuple[Image.Image, ...] = ()
    failed: str | None = None

    def shown(self) -> list[Image.Image] | Image.Image | None:
        """As `VLM.answer` takes them. Raises: UserError if one that was asked for could not be read."""
        if self.failed is not None:
            raise UserError(f"there is no picture ({self.failed}): give /image PATH, or /new to go on without one")
        if len(self.images) == 1:
            return self.images[0]
        return list(self.images) or None

    def named(self) -> str | list[str] | None:
        """The paths for JSON: one, several, or none."""
        if len(self.paths) == 1:
            return self.paths[0]
        return list(self.paths) or None


def read_pictures(texts: Sequence[str]) -> Pictures:
    """Read every picture that the lines name; UserError if one cannot be read, or none is named."""
    paths = [path for text in texts for path in picture_paths(text)]
    if not paths or "" in paths:
        raise UserError("no picture is named: give its path")
    images = []
    for path in paths:
        try:
            images.append(load_image(path))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot read the image {path!a}: {error}") from None
    return Pictures(tuple(paths), tuple(images))
