"""The files below a folder that a user names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from vlm.errors import UserError


def walk(folder: Path) -> Iterator[str]:
    """The names of the files below a folder, without hidden ones; links are followed, into each folder once.

    Names have "/" between their parts, and are in no order. Raises: UserError if a folder cannot be listed.
    """

    def refuse(error: OSError) -> NoReturn:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}; let this user read it, or move it out of {folder}"
        ) from None

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        try:
            status = os.stat(place)
        except OSError as error:
            refuse(error)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder).as_posix()
        start = "" if below == "." else below + "/"
        yield from (start + name for name in files if not name.startswith("."))
