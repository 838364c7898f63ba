"""Directories that appear whole or not at all, whenever a process is killed."""

import ctypes
import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm.errors import UserError
from vlm.files import sync

MINUTE = 60.0
# What `atomic_directory` calls its directories; `recover` touches nothing else.
_LEFT = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>tmp|old)")


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Give a directory to write into. On success it takes the place of `path`, on failure it is removed.

    Everything is flushed before one rename, so a kill never leaves a half-written `path`, nor none at all. Who may read
    it is what the umask says, whatever a library gave its files.
    Raises: UserError, before anything is done, if nothing can take the place of `path`.
    """
    path = Path(path)
    is_mount = os.path.ismount(path)  # not Path's, which until Python 3.12 takes a link to another disk for one
    if path.name in ("", "..") or is_mount:  # "." has no name
        reason = "it is a mount point" if is_mount else "it has no name of its own"
        raise UserError(f"{path} cannot be replaced, {reason}: give a folder in it, such as {path / 'new'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    partial.mkdir()
    held = _hold(partial)
    mode = partial.stat().st_mode & 0o666  # what the umask leaves to a file; safetensors writes for the owner alone
    try:
        yield partial
        for folder, _, files in os.walk(partial):
            for name in files:
                file = Path(folder) / name
                if not file.is_symlink():
                    file.chmod(mode)
                sync(file)
            sync(Path(folder))
        replace_directory(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if held is not None:
            os.close(held)


def _hold(folder: Path) -> int | None:
    """Lock a directory until the handle is closed or the process ends; None if it cannot be locked."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # its writer has just renamed it
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or the file system, such as NFS, locks no directories
        os.close(handle)
        return None
    return handle


def _remove_left(path: Path) -> None:
    """Delete what killed writers of `path` left beside it.

    Whoever still writes holds a lock on its directory, but for a moment after it was made: so one is left for a minute.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        name = _LEFT.fullmatch(left.name)
        if name is None or name["name"] != path.name or left.is_symlink() or not left.is_dir():
            continue
        with suppress(OSError):  # renamed by its writer meanwhile
            is_old = time.time() - left.stat().st_mtime > MINUTE
            if is_old and (held := _hold(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)


def replace_directory(new: Path, path: Path) -> None:
    """Give the directory `new` the name `path`, at which there is a whole one at every moment, and delete an older one.

    Where the system cannot exchange two names, the older one is moved aside to `.NAME.*.old` for the moment of the
    rename: its content is never lost, and `recover` puts it back.
    """
    replaced = new.with_suffix(".old")
    if not path.exists():
        os.rename(new, path)
    elif _exchange(new, path):
        replaced = new
    else:
        os.rename(path, replaced)
        try:
            os.rename(new, path)
        except BaseException:
            os.rename(replaced, path)
            raise
    sync(path.parent)
    if replaced.is_symlink():  # to a directory elsewhere, which is left alone
        replaced.unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names by one rename, after which each has the other's content; False where that cannot be had."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux; not every file system has it
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
        return True
    problem = ctypes.get_errno()
    if problem in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(problem, os.strerror(problem), str(second))


def recover(folder: Path) -> None:
    """Finish what a kill inside `atomic_directory` left in `folder`, into which nobody else may be writing.

    A directory that was moved aside and not replaced yet comes back; half-written ones are deleted.
    """
    for left in folder.glob(".*"):
        name = _LEFT.fullmatch(left.name)
        if name is None or not left.is_dir():
            continue
        if name["kind"] == "old" and not (folder / name["name"]).exists():
            os.rename(left, folder / name["name"])
        else:
            shutil.rmtree(left)
