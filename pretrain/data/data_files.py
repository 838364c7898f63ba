"""What `datasets` reads, and no other: it takes every path for a pattern, and passes over linked folders."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vlm.errors import UserError
from vlm.walking import walk


def exactly(paths: Sequence[Path]) -> Any:
    """These files as the `data_files` of `load_dataset`; each is known by its time, as by `datasets`.

    As a pattern, `/x/set [12]/a.parquet` would be `/x/set 1/a.parquet`.
    """
    from datasets.data_files import DataFilesList

    times: list[Any] = [(str(path.stat().st_mtime),) for path in paths]
    return {"train": DataFilesList([os.path.abspath(path) for path in paths], times)}


def escaped(url: str) -> str:
    """The pattern of one URL of a store. On the web `?` begins a query, and `[` is no letter of an address."""
    return url if url.startswith(("http://", "https://")) else glob.escape(url)


def check_folder(folder: Path) -> None:
    """Raises: UserError for a folder that `load_dataset` would read as another one, or in part."""
    real = os.path.realpath(folder)
    if glob.has_magic(real):
        raise UserError(f"{real}: `datasets` takes * ? [ ] in a folder's path for a pattern: rename or move it")
    below = {parent for name in walk(folder) for parent in PurePosixPath(name).parents}
    if linked := sorted(str(folder / part) for part in below if (folder / part).is_symlink() and part.parts):
        raise UserError(
            f"{linked[0]} is a link, which `datasets` does not follow: put the folder there, or name its files"
        )
