"""Making a folder of data: whole or not at all, and once."""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm.errors import UserError
from vlm.files import read_json
from world.files import VERSION, write_world


def reusable(out: Path, asked: dict[str, int]) -> bool:
    """Whether `out` is this very world already, or free (False). Raises: UserError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "world.json").is_file():
        raise UserError(f"{out} exists and is no world made by this script: name another folder or delete it")
    made = read_json(out / "world.json")
    different = [f"{name} {made.get(name)}, asked {value}" for name, value in asked.items() if made.get(name) != value]
    if different:
        raise UserError(
            f"{out} is a world of other arguments ({'; '.join(different)}): name another folder or delete it"
        )
    return True


def vacant(name: str) -> Path:
    """The folder to make, in full, so that `.` has a name. Raises: UserError if it is there and not empty."""
    out = Path(name).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{name} exists and is not an empty folder: name another one or delete it")
    return out


def workplace(out: Path) -> tuple[Path, int]:
    """Make a fresh, locked folder beside `out`, after clearing what killed runs left there; returns (folder, lock).

    Raises: UserError if no folder could take the place of `out` when all is done.
    """
    if os.path.ismount(out):
        raise UserError(f"{out} is a mount point, which cannot be replaced: name a new folder in it")
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.partial-"
    for left in out.parent.glob(glob.escape(prefix) + "*"):
        lock = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
        except BlockingIOError:  # another run is at work in it
            pass
        finally:
            os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder.chmod(0o755)
    return folder, lock


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """Give a folder to write into. On success it becomes `out`, on failure it is removed, after a kill by the next run.

    Raises: UserError if it cannot be written.
    """
    try:
        folder, lock = workplace(out)
        try:
            yield folder
            folder.rename(out)
        finally:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:  # disk full, no permission, or another run was quicker
        raise UserError(f"{out} could not be written: {error}") from error


def make(out: Path, scenes: int, seed: int, qa_scenes: int) -> float | None:
    """Write the world, whole or not at all; returns the scenes drawn in a second, or None if it was already there.

    Raises: UserError if the folder holds something else, or cannot be written.
    """
    if reusable(out, {"version": VERSION, "scenes": scenes, "seed": seed, "qa_scenes": qa_scenes}):
        return None
    with made_whole(out) as folder:
        _, rate = write_world(folder, scenes, seed, qa_scenes)
    return rate
