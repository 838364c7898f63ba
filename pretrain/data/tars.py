"""WebDataset tars: where each image-caption pair lies, and what is wrong with a shard.

Only headers are read, in one pass. Python's tarfile and webdataset stop in silence at a cut or smashed header; here
every shard either ends with tar's end-of-archive marker or is marked as short with the reason.
"""

import json
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.samples import Fields, Member, Sample, group, split_name
from pretrain.data.shards import ShardFile, Version, open_shard
from pretrain.data.shards import sha256 as shard_sha256

TAR_BLOCK = 512  # bytes; headers and contents start at multiples of it
LARGEST_NAME = 2**20  # of a pax or long-name record
# Where a pair lies in its shard, 16 bytes: starts in blocks of the tar, sizes in bytes.
PAIR = np.dtype([("image", "<u4"), ("image_size", "<u4"), ("caption", "<u4"), ("caption_size", "<u4")])


class Damage(Exception):
    """The tar cannot be read past this point. behind: how many bytes of the file lie there unread."""

    def __init__(self, problem: str, behind: int = 0):
        super().__init__(problem)
        self.behind = behind


@dataclass
class Scan:
    """What one shard holds."""

    version: Version  # size in bytes and time (or entity tag) when the scan began: a later change is noticed by them
    samples: np.ndarray  # PAIR[n], the usable pairs in the order of the tar
    unusable: list[tuple[int, str, str]]  # (index among all samples, key, reason)
    damage: str | None  # why samples may be missing from the end
    lost: int  # how many more samples lie behind the damage, estimated by their mean size
    suffixes: tuple[str, ...]  # of all its members, the first 8; for messages
    extra: tuple[str, int]  # an image that is a further field of a sample, and the number of them: none is read
    document: Any  # of a shard without pairs, what its first KEY.json holds; for messages
    sha256: str | None


def scan(path: str | Path, fields: Fields, sha256: bool = False) -> Scan:
    """Find the image-caption pairs of one tar, as `samples.group` makes them.

    A sample is usable with exactly one image and one caption and a key that the shard has not had before. fields: the
    suffixes of both. sha256: also hash the whole file.
    """
    found: list[Member] = []
    damage: Damage | None = None
    with closing(open_shard(path)) as file:
        try:
            for member in members(file):
                found.append(member)
        except Damage as error:
            damage = error
        samples = group(found, fields)
        pairs: list[tuple[int, int, int, int]] = []
        unusable: list[tuple[int, str, str]] = []
        for index, (sample, reason) in enumerate(zip(samples, _faults(samples, damage is not None))):
            if reason:
                unusable.append((index, sample.key, reason))
            else:
                pairs.append(_place(sample))
        document = None if pairs else _document(file, found)
    return Scan(
        version=file.version,
        samples=np.array(pairs, PAIR),
        unusable=unusable,
        damage=str(damage) if damage else None,
        lost=damage.behind * len(samples) // max(1, file.version.size - damage.behind) if damage else 0,
        suffixes=tuple(sorted({split_name(member.name)[1] for member in found} - {""})[:8]),
        extra=_extra(samples),
        document=document,
        sha256=shard_sha256(path) if sha256 else None,
    )


def _faults(samples: list[Sample], cut: bool) -> Iterator[str | None]:
    """Why each sample cannot be used. cut: the shard ended too early, perhaps inside the last sample.

    If samples' members are not neighbours, any of them may have lost what was behind the cut.
    """
    end = max((sample.last for sample in samples), default=0)
    apart = any(sample.joined for sample in samples)
    for sample in samples:
        reason = sample.fault()
        if cut and (apart or sample.last == end) and reason in ("no image", "no caption"):
            reason = "lost in a cut shard"
        yield reason


def _place(sample: Sample) -> tuple[int, int, int, int]:
    """The pair as an entry of `PAIR`."""
    image, caption = sample.images[0], sample.captions[0]
    return image.start // TAR_BLOCK, image.size, caption.start // TAR_BLOCK, caption.size


def _document(file: ShardFile, found: list[Member]) -> Any:
    """What the first small .json member holds; None if there is none, or it is damaged."""
    for member in found:
        if member.name.lower().endswith(".json") and member.size <= 2**20:
            with suppress(ValueError, RecursionError):
                return json.loads(file.read(member.start, member.size))
    return None


def _extra(samples: list[Sample]) -> tuple[str, int]:
    names = [member.name for sample in samples for member in sample.extra]
    return (names[0] if names else "", len(names))


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
                problem = f"a name record of {length:,} bytes (byte {start - TAR_BLOCK:,} of {size:,})"
                raise Damage(problem, behind=size - start)
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
        if not position:
            raise Damage("not a tar file")
        raise Damage(f"smashed header (byte {position:,} of {size:,})", behind=size - position)
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
            problem = f"data after the end-of-archive marker (byte {position:,} of {size:,})"
            raise Damage(problem, behind=size - position)
