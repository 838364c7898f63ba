"""Buffers that ended DeepSpeed runs have left in /dev/shm, 69 MB a rank and port, which fill the machine's memory.

DeepSpeed's CPU communication op makes them and never removes them. Pretraining here does without that op (see
`pretrain.zero`); what older runs and other programs left is removed when a run starts.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER = Path("/dev/shm")


def left_buffers(folder: Path = FOLDER) -> list[Path]:
    """This user's buffers that no living process holds open."""
    found = [path for path in folder.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*") if _is_own(path)]
    if not found:
        return []
    import psutil

    held: set[str] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or gone meanwhile
            held |= {file.path for file in process.open_files()}
    return [path for path in found if str(path) not in held]


def _is_own(path: Path) -> bool:
    with suppress(OSError):
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
    return False


def remove_left_buffers(folder: Path = FOLDER) -> None:
    """Remove them, and say so."""
    count = size = 0
    for path in left_buffers(folder):
        with suppress(OSError):
            size += path.stat().st_size
            path.unlink()
            count += 1
    if count:
        print(f"{folder}: removed {count} buffers, {size / 1e6:.0f} MB, of DeepSpeed runs that have ended", flush=True)
