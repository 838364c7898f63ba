"""WebDataset tars: where each image-caption pair lies, and what is wrong with a shard.

Only headers are read, in one pass. Python's tarfile and webdataset stop in silence at a cut or smashed header; here
every shard either ends with tar's end-of-archive marker or is marked as short with the reason.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlm.files import file_sha256

BLOCK = 512
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
CAPTION_SUFFIXES = ("txt",)
MAX_IMAGE = 256 * 2**20  # bytes
MAX_CAPTION = 16 * 2**20
MAX_HEADER = 2**20  # of a pax or long-name record

# A pair in its shard, 16 bytes; members start at multiples of 512 bytes.
SAMPLE = np.dtype([("image", "<u4"), ("image_size", "<u4"), ("caption", "<u4"), ("caption_size", "<u4")])

_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$", re.DOTALL)


class Damage(Exception):
    """The tar cannot be read past this point."""


@dataclass
class Scan:
    """What one shard holds."""

    samples: np.ndarray  # SAMPLE[n], the usable pairs in the order of the tar
    unusable: list[tuple[int, str, str]] = field(default_factory=list)  # (index among all samples, key, reason)
    damage: str | None = None  # why samples may be missing from the end
    suffixes: tuple[str, ...] = ()  # of all its members; for messages
    sha256: str | None = None


@dataclass(frozen=True)
class Member:
    name: str
    start: int  # of its content, in bytes
    size: int


def scan(path: Path, images=IMAGE_SUFFIXES, captions=CAPTION_SUFFIXES, sha256: bool = False) -> Scan:
    """Find the image-caption pairs of one tar. A sample is a run of members with one key, as for webdataset.

    A sample is usable with exactly one image and one caption and a key that the shard has not had before.
    """
    samples, unusable, keys, suffixes, damage = [], [], set(), set(), None

    def close(key: str, found: dict[str, list[Member]], reason: str | None) -> None:
        reason = _fault(found, key in keys, reason)
        keys.add(key)
        if reason:
            unusable.append((len(samples) + len(unusable), key, reason))
        else:
            image, caption = found["image"][0], found["caption"][0]
            samples.append((image.start // BLOCK, image.size, caption.start // BLOCK, caption.size))

    key, found = None, {}
    with open(path, "rb") as file:
        try:
            for member in members(file.fileno()):
                name, suffix = split_name(member.name)
                if not suffix:
                    continue
                if name != key:
                    if key is not None:
                        close(key, found, None)
                    key, found = name, {"image": [], "caption": []}
                suffixes.add(suffix)
                if suffix in images:
                    found["image"].append(member)
                elif suffix in captions:
                    found["caption"].append(member)
        except Damage as error:
            damage = str(error)
        if key is not None:
            close(key, found, "lost in a cut shard" if damage else None)
    digest = file_sha256(path) if sha256 else None
    return Scan(np.array(samples, SAMPLE), unusable, damage, tuple(sorted(suffixes)[:8]), digest)


def split_name(name: str) -> tuple[str, str]:
    """Key and lower-case suffix, cut at the first dot of the file's name as webdataset does; no dot: ("", "")."""
    match = _NAME.match(name)
    return (match[1], match[2].lower()) if match else ("", "")


def _fault(found: dict[str, list[Member]], repeated: bool, cut: str | None) -> str | None:
    """Why a sample cannot be used, or None. `cut` takes the place of "no image" and "no caption"."""
    if repeated:
        return "duplicate key"
    for kind in ("image", "caption"):
        if len(found[kind]) > 1:
            return f"two {kind}s"
        if not found[kind]:
            return cut or f"no {kind}"
    if found["image"][0].size > MAX_IMAGE or found["caption"][0].size > MAX_CAPTION:
        return "file too large"
    return None


def members(handle: int) -> Iterator[Member]:
    """The regular files of an open tar, in order; raises `Damage` where it ends without its end marker."""
    size, position, window = os.fstat(handle).st_size, 0, _Window(handle)
    extended: dict[str, str] = {}  # path and size from records that precede a member
    while True:
        header = window.read(position, BLOCK)
        if len(header) < BLOCK:
            inside = "cut inside a header" if header else "no end-of-archive marker, it may have been cut"
            raise Damage(f"{inside} (byte {position:,} of {size:,})")
        if not any(header):
            _check_end(handle, position, size)
            return
        name, length, kind = parse_header(header, position, size)
        name, length = extended.get("path", name), int(extended.get("size", length))
        start = position + BLOCK
        if start + length > size:
            raise Damage(f"cut inside {name} (byte {size:,}, it ends at {start + length:,})")
        position = start + -(-length // BLOCK) * BLOCK
        if kind in b"xL":
            if length > MAX_HEADER:
                raise Damage(f"a name record of {length:,} bytes (byte {start - BLOCK:,} of {size:,})")
            content = os.pread(handle, length, start)
            extended = _pax(content) if kind == b"x" else {"path": _text(content)}
        elif kind not in b"gK":  # those stand between a long name and its member
            extended = {}
            if kind in b"0\0":
                yield Member(name, start, length)


class _Window:
    """pread in pieces of 8 KiB: a caption, a json and the next image's header lie side by side."""

    def __init__(self, handle: int):
        self.handle, self.start, self.data = handle, 0, b""

    def read(self, position: int, length: int) -> bytes:
        if not self.start <= position <= self.start + len(self.data) - length:
            self.start, self.data = position, os.pread(self.handle, 16 * BLOCK, position)
        return self.data[position - self.start : position - self.start + length]


def parse_header(header: bytes, position: int = -1, size: int = -1) -> tuple[str, int, bytes]:
    """Name, size and type of a 512-byte header; `Damage` where its checksum or size field is wrong."""
    try:
        stored = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
        if header[124] & 0x80:
            length = int.from_bytes(header[125:136], "big")
        else:
            length = int(header[124:136].split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        stored, length = -1, 0
    if stored != sum(header[:148]) + 256 + sum(header[156:]) or length < 0:
        if position == 0:
            raise Damage("not a tar file")
        raise Damage(f"smashed header (byte {position:,} of {size:,})")
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = _text(header[345:500]) + "/" + name
    return name, length, header[156:157]


def _pax(content: bytes) -> dict[str, str]:
    """The path and size among pax records, b"18 path=name.jpg\\n"."""
    records = re.findall(rb"\d+ (path)=([^\n]+)\n", content) + re.findall(rb"\d+ (size)=(\d{1,18})\n", content)
    return {key.decode(): _text(value) for key, value in records}


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _check_end(handle: int, position: int, size: int) -> None:
    """After the end marker only padding may follow; zeros can also be a hole where data was."""
    start = position
    while position < size:
        piece = os.pread(handle, 2**20, position)
        if not piece:
            return
        if piece.strip(b"\0"):
            raise Damage(f"data after the end-of-archive marker (byte {start:,} of {size:,})")
        position += len(piece)
