"""Tars, and caption shards in WebDataset's layout."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tiny.pictures import encoded, numbered, speckled

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 220), "grey": (128, 128, 128)}
Entry = tuple[str, bytes] | tuple[tarfile.TarInfo, None]


def write_tar(path: Path, entries: Iterable[Entry], form: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar of files, each a name and its content; or of a header alone, as a link has it."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return path


def pair(key: str, image: bytes, caption: bytes, suffix: str = "png") -> list[Entry]:
    """The two files of one captioned image."""
    return [(f"{key}.{suffix}", image), (f"{key}.txt", caption)]


def numbered_pairs(numbers: Iterable[int]) -> list[Entry]:
    """Pictures that are a number beside the caption "number N", and a JSON file that nothing reads."""
    entries: list[Entry] = []
    for number in numbers:
        key = f"{number:06d}"
        entries += [*pair(key, numbered(number), f"number {number}".encode()), (f"{key}.json", b"{}")]
    return entries


def write_numbered_shards(folder: Path, counts: Sequence[int]) -> Path:
    """train-0.tar, train-1.tar, ... of so many pairs, numbered on from 0, and val-0.tar of number 999."""
    folder.mkdir()
    first = 0
    for shard, count in enumerate(counts):
        write_tar(folder / f"train-{shard}.tar", numbered_pairs(range(first, first + count)))
        first += count
    write_tar(folder / "val-0.tar", numbered_pairs([999]))
    return folder


def write_coloured_shards(folder: Path) -> Path:
    """Two shards of 20 plain pictures with their colour's name: captions that can be learnt."""
    random = np.random.default_rng(0)
    for shard in range(2):
        entries: list[Entry] = []
        for index in range(20):
            name = list(COLOURS)[random.integers(4)]
            picture = encoded(speckled(COLOURS[name], 16, 20, random))
            entries += pair(f"{shard}{index:05d}", picture, f"a {name} picture".encode())
        write_tar(folder / f"train-{shard:06d}.tar", entries)
    return folder
