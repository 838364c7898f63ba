"""What --data names on this machine -> the files to read, and how they are to be read.

'/data/{00000..00099}.tar'    braces, as a shell expands them: every name must be there
a.tar::b.tar                  several patterns
~/data, '~/data/*.tar'        the home folder, also where quotes kept the shell from expanding it
a folder                      its shards, also in folders below it; or a table with its images; or images with texts
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.data import tabular
from pretrain.data.samples import IMAGE_SUFFIXES
from vlm.errors import UserError
from vlm.walking import walk

SHARDS = (".tar", ".parquet", ".arrow")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
TEXT_SUFFIXES = ("txt", "caption")  # of the captions in a plain folder; the first wins
LONGEST = 200  # characters of a source in a message
IMAGES, BY_NAME = "images", "name"


@dataclass
class Found:
    """Files of one kind: a suffix of `SHARDS` or `TABLES`; a folder of `IMAGES`; or what `datasets` opens `BY_NAME`."""

    kind: str
    paths: list[Path]
    root: Path | None = None  # the folder that was named, to which image paths in tables may be relative
    notices: list[str] = field(default_factory=list)  # of what is there and is not read
    names: list[str] = field(default_factory=list)  # of the files in a folder of IMAGES, below it


def expand(source: str) -> list[str]:
    """The patterns, paths and URLs that a source is made of, without `::`, `~`, `file://` and braces.

    Raises: UserError if a brace is not closed, or a part beside a `::` is empty.
    """
    from braceexpand import braceexpand

    parts: list[str] = []
    for part in source.split("::"):
        part = os.path.expanduser(part.strip().removeprefix("file://"))
        if not part:
            raise UserError(f"{brief(source)}: nothing stands before or behind a `::`")
        try:
            parts += [part] if os.path.exists(part) else braceexpand(part)
        except ValueError:
            raise UserError(f"{part}: a brace is not closed") from None
    return parts


def brief(source: str) -> str:
    """A source as messages name it: of hundreds of names joined to one the beginning."""
    return source if len(source) <= LONGEST else f"{source[:LONGEST]} ..."


def locate(source: str) -> Found:
    """The files that a source on this machine stands for. Raises: UserError if there is none, or several kinds are."""
    if source.startswith("pipe:"):
        raise UserError(f"{source}: commands are not run; give the URL of the shards, as https:// or s3://")
    parts = expand(source)
    if len(parts) == 1:
        found = [_locate_one(parts[0])]
    else:
        missing = [part for part in parts if not glob.has_magic(part) and not os.path.exists(part)]
        if missing:
            count = f"{len(missing)} of the {len(parts)} files that it names do not exist, the first is {missing[0]}"
            raise UserError(f"{brief(source)}: {count}: fetch them, or name those that are there")
        found = [_locate_one(part) for part in parts]
    return _together(source, found)


def _together(source: str, found: Sequence[Found]) -> Found:
    """Several finds as one."""
    paths = [path for one in found for path in one.paths]
    kinds = sorted({one.kind for one in found})
    if len(kinds) > 1 or (len(found) > 1 and kinds[0] in (IMAGES, BY_NAME)):
        given = ", ".join(kinds) if len(kinds) > 1 else f"{len(found)} sources"
        needed = f"captions come as {', '.join(SHARDS + TABLES)}, one kind at a time"
        raise UserError(f"{brief(source)} is {given}; {needed}")
    if len(set(paths)) < len(paths):
        twice = next(path for number, path in enumerate(paths) if path in paths[:number])
        cure = "name it once, or weigh sources as --data a=0.7,b=0.3"
        raise UserError(f"{brief(source)} names {twice} twice: {cure}")
    notices = [notice for one in found for notice in one.notices]
    return Found(kinds[0], paths, found[0].root, notices, found[0].names)


def _locate_one(name: str) -> Found:
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _of_files(name, [path])
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
        if not matches:
            raise UserError(f"no file matches {name}: check the pattern")
        folders = [match for match in matches if match.is_dir()]
        if len(folders) == len(matches):
            return _together(name, [_folder(folder) for folder in folders])
        return _of_files(name, [match for match in matches if not match.is_dir()])
    return Found(BY_NAME, [path])


def _of_files(name: str, paths: list[Path]) -> Found:
    kinds = sorted({path.suffix.lower() for path in paths})
    if len(kinds) > 1 or kinds[0] not in SHARDS + TABLES:
        needed = f"captions come as {', '.join(SHARDS + TABLES)}, one kind at a time"
        raise UserError(f"{name} is {', '.join(kind or 'a file without a suffix' for kind in kinds)}; {needed}")
    return Found(kinds[0], paths)


def _folder(folder: Path) -> Found:
    """What a folder stands for, by the first of these rules that holds:

    1  `save_to_disk` of `datasets` wrote it                               that data set
    2  tars, at any depth                                                  the tars
    3  parquet, else Arrow, directly in it (but img2dataset's records)     those tables
    4  metadata.csv, .tsv or .jsonl, at any depth                          those tables, with the images they name
    5  images and texts                                                    the images, each with its text
    6  another csv, tsv or jsonl directly in it                            those tables, with the images they name
    7  images, and parquet or Arrow below it (but img2dataset's records)   those tables
    8  images                                                              the images, each with a text of another kind
    9  parquet, Arrow, csv, jsonl, json or zip at any depth                a data set in the hub's layout

    Raises: UserError if none does.
    """
    if tabular.is_saved(folder):  # 1
        return Found(BY_NAME, [folder])
    names = list(walk(folder))
    seen, by_kind = _suffixes(folder, names)
    images = any(f".{suffix}" in seen for suffix in IMAGE_SUFFIXES)
    texts = any(f".{suffix}" in seen for suffix in TEXT_SUFFIXES)
    if tars := by_kind.get(".tar"):  # 2
        return _for_training(folder, ".tar", tars, by_kind)
    for kind in (".parquet", ".arrow"):  # 3
        top = [path for path in by_kind.get(kind, ()) if path.parent == folder]
        # img2dataset's `files`: beside the folder 00000 of images lies 00000.parquet, a record of the download.
        if top and not (images and all(path.with_suffix("").is_dir() for path in top)):
            return _for_training(folder, kind, top, by_kind)
    for kind in TABLES[:3]:  # 4
        if tables := [path for path in by_kind.get(kind, ()) if path.stem == "metadata"]:
            return _for_training(folder, kind, tables, by_kind)
    if images and texts:  # 5
        return Found(IMAGES, [folder], folder, _left_out(folder, by_kind, TABLES[:3]), names)
    for kind in TABLES[:3]:  # 6
        if tables := [path for path in by_kind.get(kind, ()) if path.parent == folder]:
            return _for_training(folder, kind, tables, by_kind)
    # 7. In the hub's layout pictures may lie beside the tables, as a figure of README.md; or a table names images.
    for kind in (".parquet", ".arrow") if images else ():
        if tables := [path for path in by_kind.get(kind, ()) if not path.with_suffix("").is_dir()]:
            return _for_training(folder, kind, tables, by_kind)
    if images:  # 8
        return Found(IMAGES, [folder], folder, names=names)
    if by_kind.keys() & {".parquet", ".arrow", ".csv", ".jsonl", ".json", ".zip"}:  # 9
        return Found(BY_NAME, [folder])
    held = f" (it has {', '.join(sorted(kind or 'no suffix' for kind in seen))})" if seen else ""
    raise UserError(
        f"{folder} holds no .tar, .parquet or .arrow file, no table and no image{held}: "
        "give the folder with the shards or images"
    )


def _suffixes(folder: Path, names: Sequence[str]) -> tuple[set[str], dict[str, list[Path]]]:
    """The suffixes of a folder's files, and those files by suffix, sorted, that are neither images nor texts.

    Of images and texts, of which there may be millions, no paths are made.
    """
    many = {f".{suffix}" for suffix in (*IMAGE_SUFFIXES, *TEXT_SUFFIXES)}
    by_kind: dict[str, list[Path]] = {}
    seen: set[str] = set()
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        seen.add(suffix)
        if suffix not in many:
            by_kind.setdefault(suffix, []).append(folder / name)
    for paths in by_kind.values():
        paths.sort()
    return seen, by_kind


def _for_training(folder: Path, kind: str, paths: list[Path], by_kind: dict[str, list[Path]]) -> Found:
    """Of these files those named train-*, here or in `data`, or in the folder `train`, if there are any; else all."""
    named = [path for path in paths if path.parent in (folder, folder / "data") and path.name.startswith("train-")]
    within = [path for path in paths if path.relative_to(folder).parts[0] == "train"]
    chosen = named or within or paths
    notices = _left_out(folder, by_kind, tuple(other for other in SHARDS if other != kind))
    if len(chosen) < len(paths):
        taken = set(chosen)
        rest = [path for path in paths if path not in taken]
        told = f"of {folder} only {'train-*' if named else 'train/'} is read, not {len(rest)} more {kind} files"
        notices.append(f"{told}, as {rest[0].relative_to(folder)} (name them with a pattern)")
    return Found(kind, chosen, folder, notices)


def _left_out(folder: Path, by_kind: dict[str, list[Path]], kinds: tuple[str, ...]) -> list[str]:
    """A notice for each kind of shard that is there as well; img2dataset's parquet beside its tars holds no images."""
    tars = {path.stem for path in by_kind.get(".tar", ())}
    notices = []
    for kind in kinds:
        others = [path for path in by_kind.get(kind, ()) if path.stem not in tars]
        if others:
            notices.append(f"{len(others)} {kind} files of {folder}, as {others[0].name}, are not read")
    return notices
