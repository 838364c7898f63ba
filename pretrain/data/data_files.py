"""Files for `datasets` as they are listed here, where it would read their paths as patterns.

`datasets` takes every path for a pattern: of `/x/set [12]/a.parquet` it reads `/x/set 1/a.parquet`. And in a folder it
does not follow links to folders.
"""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from vlm.walking import walk


def exactly(paths: Sequence[Path]) -> Any:
    """These files and no others, as the `data_files` of `load_dataset`; each is known by its time, as by `datasets`."""
    from datasets.data_files import DataFilesList

    times: list[Any] = [(str(path.stat().st_mtime),) for path in paths]
    return {"train": DataFilesList([os.path.abspath(path) for path in paths], times)}


def escaped(url: str) -> str:
    """The pattern of one URL of a store. On the web `?` begins a query, and `[` is no letter of an address."""
    return url if url.startswith(("http://", "https://")) else glob.escape(url)


@contextmanager
def listing(folder: str) -> Iterator[str]:
    """The path by which `load_dataset` reads a folder, and inside the context all of it, through links.

    If its path is no pattern and no folder below it is a link, `datasets` lists it by itself.
    """
    import datasets.data_files

    real, names = os.path.realpath(folder), sorted(walk(Path(folder)))
    below = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    if not glob.has_magic(real) and not any(os.path.islink(os.path.join(real, part)) for part in below):
        yield folder
        return
    usual = datasets.data_files.resolve_pattern
    datasets.data_files.resolve_pattern = _resolver(real, names)
    try:
        yield real
    finally:
        datasets.data_files.resolve_pattern = usual


def _resolver(root: str, names: Sequence[str]) -> Callable[..., list[str]]:
    """What stands for `datasets.data_files.resolve_pattern`; names: of the files below `root`."""
    from datasets.data_files import FILES_TO_IGNORE

    def resolve(pattern: str, base_path: str, allowed_extensions: Any = None, download_config: Any = None) -> list[str]:
        wanted = PurePosixPath(os.path.relpath(os.path.join(base_path, pattern), root)).parts
        found = []
        for name in names:
            *folders, file = parts = PurePosixPath(name).parts
            read = allowed_extensions is None or any(f".{end}" in allowed_extensions for end in file.split(".")[1:])
            left_out = file in FILES_TO_IGNORE or any(part.startswith("__") for part in folders)
            if read and not left_out and _fits(parts, wanted):
                found.append(os.path.join(root, name))
        if not found:
            raise FileNotFoundError(f"no file of {root} is called {pattern}")
        return found

    return resolve


def _fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern, both in parts; `**` stands for any number of folders, at the end for a file too.

    ("a", "b", "c.csv") fits ("a", "**", "*.csv") and ("**",).
    """
    if not name or not pattern:
        return not name and not pattern
    if pattern[0] != "**":
        return fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])
    return len(pattern) == 1 or any(_fits(name[skipped:], pattern[1:]) for skipped in range(len(name)))
