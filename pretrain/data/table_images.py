"""The image of one row: encoded bytes, or the path of a file, which must lie where the table's images may lie."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.data.captions import BadSample
from pretrain.data.samples import LARGEST_IMAGE
from vlm.reading import inside, read_regular

OUTSIDE = "image lies outside of the data set"
MISSING = "image file not found"
URL = "image is a URL"
BASE64 = "image is base64, neither bytes nor a path"
LONGEST_PATH = 255  # characters of a path that messages and keys hold whole
LONGEST_SHOWN = 80  # of something longer
BASE64_IMAGES = ("/9j/", "iVBOR", "UklGR", "R0lGO")  # how JPEG, PNG, WebP and GIF begin
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/=\s]")


def image_content(value: Any) -> bytes | str | None:
    """The image file in an Arrow scalar, or the path of it: a struct of bytes and path, plain binary, or a string."""
    import pyarrow as pa

    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        parts = dict(value.items())  # of them "bytes" or "path" may be missing
        if "bytes" in parts and parts["bytes"].is_valid:
            return parts["bytes"].as_buffer().to_pybytes()
        return (parts["path"].as_py() or None) if "path" in parts else None
    if isinstance(value, (pa.StringScalar, pa.LargeStringScalar)):
        return value.as_py() or None
    return value.as_buffer().to_pybytes()


def image_bytes(value: Any, roots: Sequence[Path]) -> bytes | None:
    """As `image_content`, with the file at a path read, which must lie in one of `roots`. Raises: as `named_image`."""
    content = image_content(value)
    return named_image(content, roots) if isinstance(content, str) else content


def named_image(path: str, roots: Sequence[Path], above: Path | None = None) -> bytes:
    """The image file at the path that a row names: a regular file below one of `roots`, links followed.

    above: a folder around the table's, below which a plain relative path may also lie, as `images/1.jpg` beside
    `annotations/table.csv` does.
    Raises: BadSample if it lies elsewhere, whether it is there or not, or is too large; OSError if it is no regular
    file or cannot be read.
    """
    if path.startswith(("http://", "https://")):
        raise BadSample(URL)
    if _is_base64(path):
        raise BadSample(BASE64)
    given = Path(os.path.expanduser(path.removeprefix("file://")))
    plain = not given.is_absolute() and ".." not in given.parts
    reason = MISSING
    for start in (*roots, *([above] if above and plain else [])):
        try:
            if not inside(start / given, [*roots, start]):
                reason = OUTSIDE
                continue
            return read_regular(start / given, LARGEST_IMAGE)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError:  # a NUL character
            break
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise BadSample("file too large") from None
            if error.errno == errno.ENAMETOOLONG:  # no file can have this name
                break
            raise
    raise BadSample(reason)


def _is_base64(path: str) -> bool:
    """Whether a string is the content of an image file in base64, not its path."""
    text = path.lstrip()
    if text.startswith("data:image/"):
        return True
    return len(text) > LONGEST_SHOWN and text.startswith(BASE64_IMAGES) and not _NO_BASE64.search(text)


def short_path(path: str) -> str:
    """The path of an image for a message or as a key; of what is too long for a file's name, the beginning."""
    return path if len(path) <= LONGEST_PATH else path[:LONGEST_SHOWN]
