"""Whether a disk has room for what a command is going to write, asked before hours are spent."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from vlm.errors import UserError, file_limit, free_bytes

ANYWAY = "LEVLM_DISK_CHECK"  # at 0 a run goes on anyway: as on disks that compress, whose free bytes say little


def require_room(
    folder: Path,
    parts: Mapping[str, int],
    later: int = 0,
    largest: int = 0,
    advice: str = "make room, give another folder",
) -> None:
    """Refuse what does not fit on the disk of `folder`, and warn if it does but what follows does not.

    parts: bytes by what is written. later: bytes that are added after it. largest: bytes of the largest file.
    advice: what to do, apart from going on anyway.
    Raises: UserError with the arithmetic.
    """
    needed, free, limit = sum(parts.values()), free_bytes(folder), file_limit()
    summed = " + ".join(f"{size:,} ({name})" for name, size in parts.items())
    summed += f" = {needed:,}" if len(parts) > 1 else ""
    problem = None
    if needed > free:
        problem = f"{folder} has no room: {summed} bytes needed, {free:,} bytes free"
    elif limit is not None and largest > limit:
        problem = f"{folder} will hold a file of {largest:,} bytes, {limit:,} bytes a file are allowed by ulimit -f"
    if problem and os.environ.get(ANYWAY) != "0":
        raise UserError(f"{problem}: {advice}, or set {ANYWAY}=0 to go on anyway")
    if not problem and needed + later > free:
        print(f"warning: {folder} will grow by {needed + later:,} bytes, {free:,} bytes are free", file=sys.stderr)


def file_sizes(folder: Path) -> list[int]:
    """The sizes of all files in a folder, at least one number."""
    return [0, *(path.stat().st_size for path in folder.rglob("*") if path.is_file())]
