"""WebDataset tars: where each image-caption pair lies, and what is wrong with a shard.

Only headers are read, in one pass. Python's tarfile and webdataset stop in silence at a cut or smashed header; here
every shard either ends with tar's end-of-archive marker or is marked as short with the reason.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrain.data.shards import ShardFile, Version, open_shard
from pretrain.data.shards import sha256 as shard_sha256

TAR_BLOCK = 512  # bytes; headers and contents start at multiples of it
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
CAPTION_SUFFIXES = ("txt",)
# Bytes of a member; a larger one is no sample.
LARGEST_IMAGE = 256 * 2**20
LARGEST_CAPTION = 16 * 2**20
LARGEST_NAME = 2**20  # of a pax or long-name record
# Where a pair lies in its shard, 16 bytes: starts in blocks of the tar, sizes in bytes.
PAIR = np.dtype([("image", "<u4"), ("image_size", "<u4"), ("caption", "<u4"), ("caption_size", "<u4")])


class Damage(Exception):
    """The tar cannot be read past this point."""


@dataclass
class Scan:
    """What one shard holds."""

    version: Version  # size in bytes and time (or entity tag) when the scan began: a later change is noticed by them
    samples: np.ndarray  # PAIR[n], the usable pairs in the order of the tar
    unusable: list[tuple[int, str, str]]  # (index among all samples, key, reason)
    damage: str | None  # why samples may be missing from the end
    suffixes: tuple[str, ...]  # of all its members, the first 8; for messages
    sha256: str | None


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    start: int  # of its content, in bytes
    size: int


@dataclass
class _Sample:
    """A run of members with one key, while it is read."""

    key: str
    images: list[Member] = field(default_factory=list)
    captions: list[Member] = field(default_factory=list)

    def fault(self) -> str | None:
        """Why it cannot be used, or None: it needs exactly one image and one caption, of a sensible size."""
        for kind, found in (("image", self.images), ("caption", self.captions)):
            if len(found) > 1:
                return f"two {kind}s"
            if not found:
                return f"no {kind}"
        if self.images[0].size > LARGEST_IMAGE or self.captions[0].size > LARGEST_CAPTION:
            return "file too large"
        return None

    def place(self) -> tuple[int, int, int, int]:
        """The pair as an entry of `PAIR`."""
        image, caption = self.images[0], self.captions[0]
        return image.start // TAR_BLOCK, image.size, caption.start // TAR_BLOCK, caption.size


def scan(
    path: str | Path,
    images: Sequence[str] = IMAGE_SUFFIXES,
    captions: Sequence[str] = CAPTION_SUFFIXES,
    sha256: bool = False,
) -> Scan:
    """Find the image-caption pairs of one tar. A sample is a run of members with one key, as for webdataset.

    A sample is usable with exactly one image and one caption and a key that the shard has not had before. images,
    captions: the suffixes of the members, lower case, without the dot. sha256: also hash the whole file.
    """
    pairs: list[tuple[int, int, int, int]] = []
    unusable: list[tuple[int, str, str]] = []
    keys, suffixes = set(), set()
    damage: str | None = None
    sample: _Sample | None = None

    def close(sample: _Sample, cut: bool = False) -> None:
        """The sample is complete: list it as a pair or as unusable. cut: the shard ended inside it."""
        reason = "duplicate key" if sample.key in keys else sample.fault()
        if cut and reason in ("no image", "no caption"):
            reason = "lost in a cut shard"
        keys.add(sample.key)
        if reason:
            unusable.append((len(pairs) + len(unusable), sample.key, reason))
        else:
            pairs.append(sample.place())

    with closing(open_shard(path)) as file:
        try:
            for member in members(file):
                key, suffix = split_name(member.name)
                if not suffix:
                    continue
                if sample is None or key != sample.key:  # the first member of the next sample
                    if sample is not None:
                        close(sample)
                    sample = _Sample(key)
                suffixes.add(suffix)
                if suffix in images:
                    sample.images.append(member)
                elif suffix in captions:
                    sample.captions.append(member)
        except Damage as error:
            damage = str(error)
        if sample is not None:
            close(sample, cut=damage is not None)
    digest = shard_sha256(path) if sha256 else None
    return Scan(file.version, np.array(pairs, PAIR), unusable, damage, tuple(sorted(suffixes)[:8]), digest)


def split_name(name: str) -> tuple[str, str]:
    """Key and lower-case suffix, cut at the first dot of the file's name as webdataset does; no dot: ("", "")."""
    match = re.match(r"^((?:.*/|)[^./]+)[.]([^/]*)$", name, re.DOTALL)
    return (match[1], match[2].lower()) if match else ("", "")


def members(file: ShardFile) -> Iterator[Member]:
    """The regular files of an open tar, in order; what lies between their headers is not read.

    Raises: Damage if it has no end marker, or a header is smashed.
    """
    size, position, window = file.version.size, 0, _Window(file)
    extended: dict[str, str] = {}  # path and size from records that precede a member
    while True:
        # A header of one block, then its content in whole blocks.
        header = window.read(position, TAR_BLOCK)
        if len(header) < TAR_BLOCK:
            problem = "cut inside a header" if header else "no end-of-archive marker, it may have been cut"
            raise Damage(f"{problem} (byte {position:,} of {size:,})")
        if not any(header):  # a block of zeros marks the end
            _check_end(file, position, size)
            return
        name, length, kind = parse_header(header, position, size)
        name, length = extended.get("path", name), int(extended.get("size", length))
        start = position + TAR_BLOCK
        if start + length > size:
            raise Damage(f"cut inside {name} (byte {size:,}, it ends at {start + length:,})")
        position = start + -(-length // TAR_BLOCK) * TAR_BLOCK
        if kind in b"xL":  # pax's or GNU's record of what the next member is called
            if length > LARGEST_NAME:
                raise Damage(f"a name record of {length:,} bytes (byte {start - TAR_BLOCK:,} of {size:,})")
            content = file.read(start, length)
            extended = _pax(content) if kind == b"x" else {"path": _text(content)}
        elif kind not in b"gK":  # those may stand between a long name and its member
            extended = {}
            if kind in b"0\0":
                yield Member(name, start, length)


class _Window:
    """Reads in pieces of 8 KiB: a caption, a json and the next image's header lie side by side."""

    def __init__(self, file: ShardFile):
        self.file, self.start, self.data = file, 0, b""

    def read(self, position: int, length: int) -> bytes:
        if not self.start <= position <= self.start + len(self.data) - length:
            self.start, self.data = position, self.file.read(position, 16 * TAR_BLOCK)
        return self.data[position - self.start : position - self.start + length]


def parse_header(header: bytes, position: int = -1, size: int = -1) -> tuple[str, int, bytes]:
    """Name, size in bytes and type of a 512-byte header (POSIX ustar, with GNU's and the old format's deviations)."""
    try:
        stored = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
        if header[124] & 0x80:  # GNU's binary size, for more than octal digits hold
            length = int.from_bytes(header[125:136], "big")
        else:
            length = int(header[124:136].split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        stored, length = -1, 0
    checksum = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])  # its own field counts as spaces
    if stored != checksum or length < 0:
        raise Damage(f"smashed header (byte {position:,} of {size:,})" if position else "not a tar file")
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


def _check_end(file: ShardFile, position: int, size: int) -> None:
    """After the end marker only padding may follow; zeros can also be a hole where data was."""
    for start in range(position, size, 2**20):
        if file.read(start, 2**20).strip(b"\0"):
            raise Damage(f"data after the end-of-archive marker (byte {position:,} of {size:,})")
