"""Files that users and data sets name: regular ones alone, of bounded size, inside the folder that they belong to.

A FIFO would hang whoever opens it, `/dev/zero` never ends, and a data set could name any picture of the machine. What
is refused is an `OSError` with a `strerror` for people, as the system's own refusals have.
"""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

LARGEST_IMAGE = 256 * 2**20  # bytes of an image file
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def check_regular(path: str | Path) -> None:
    """Raises: OSError if `path` is missing, a directory, a FIFO, a device or a socket. Links are followed."""
    _check_mode(os.stat(path).st_mode, path)


def open_regular(path: str | Path) -> BinaryIO:
    """Open for reading in binary. Raises: OSError as `check_regular` and `open`."""
    check_regular(path)  # first, since opening some devices already does something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _check_mode(os.fstat(handle).st_mode, path)  # again, if it was replaced in between
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_regular(path: str | Path, most: int) -> bytes:
    """Read a whole file. Raises: OSError as `open_regular`, and if it is longer than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)  # `most` would be mapped first, and given back after
        if len(content) > size:  # a file that grows, or one of /proc, which has no size
            content += file.read(most + 1 - len(content))
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than the {most / 2**20:,.0f} MiB that are read", str(path))
    return content


def inside(path: str | Path, roots: Iterable[str | Path]) -> bool:
    """Whether `path`, with every link followed, lies in one of the folders `roots`.

    In the hub's cache a snapshot's files are links to `blobs` beside it, which belong to the snapshot.
    """
    real = os.path.realpath(path)
    return any(os.path.commonpath([real, root]) == root for root in map(real_root, roots))


def real_root(folder: str | Path) -> str:
    """A folder with every link followed; of a folder in a snapshot of the hub's cache the whole repository."""
    real = Path(os.path.realpath(folder))
    for parent in (real, *real.parents):
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return str(parent.parent)
    return str(real)


def _check_mode(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise PermissionError(errno.EACCES, f"it is {kind}, not a regular file", str(path))
