"""A run's folder: only one run writes there at a time, and what it recorded is not lost."""

import errno
import fcntl
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from vlm.directories import recover
from vlm.distributed import barrier, is_main, on_main
from vlm.errors import NO_ROOM, UserError, free_bytes
from vlm.files import read_jsonl, write_file, write_json

DONE = "done.json"
LINGER = 15.0  # seconds that what is left of a killed run may take to end
# flock's errors on a file system that has no locks, such as Lustre mounted without `-o flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep `folder`, that of --out, to this run; collective. However the process ends, the lock ends with it.

    Raises: UserError if another run holds the folder, or it cannot be written.
    """

    def take() -> None:
        if holder := lock(folder, "--out", held):
            raise occupied(folder, "--out", holder)

    with ExitStack() as held:
        on_main(take)
        yield


def occupied(folder: Path, option: str, holder: str) -> UserError:
    return UserError(f"another run is writing to {folder} ({holder}): wait for it, or give another {option}")


def lock(folder: Path, option: str, held: ExitStack) -> str | None:
    """Lock `folder` until `held` closes, and finish what a killed run left in it; or return which run holds it.

    Raises: UserError if it cannot be written.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:  # libraries that write weights and tokenizers take no other names
        raise UserError(
            f"{option} {str(folder)!a}: the path is not UTF-8, so that no tokenizer could be saved there: name another "
            "folder, or set LC_ALL=C.UTF-8 if it is this shell that reads letters as bytes"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((folder / ".lock").open("a+", encoding="utf-8"))
        until = time.monotonic() + LINGER
        try:
            while not _taken(file):
                file.seek(0)
                holder = file.read().strip()
                if not _has_ended(holder) or time.monotonic() > until:
                    file.close()
                    return holder or "unknown"
                time.sleep(0.1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            notice = f"warning: {folder} cannot be locked ({error.strerror}): make sure that no second run writes there"
            print(notice, file=sys.stderr)
        file.truncate(0)
        # Not through the file's buffer: closing it would meet a full disk a second time.
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        recover(folder)
        recover(folder / "checkpoints")
    except OSError as error:
        room = f"; {free_bytes(folder):,} bytes free" if error.errno in NO_ROOM else ""
        raise UserError(f"cannot write to {folder} ({error.strerror}{room}): give another {option}") from None


def _taken(file: IO) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_ended(holder: str) -> bool:
    """Whether the process that `.lock` names was killed: its loader workers share the lock, and end seconds later."""
    found = re.fullmatch(r"process (\d+) on (.+)", holder)
    if found is None or found[2] != socket.gethostname():
        return False
    import psutil

    try:
        return psutil.Process(int(found[1])).status() == psutil.STATUS_ZOMBIE
    except psutil.Error as error:
        return isinstance(error, psutil.NoSuchProcess)


def begin(folder: Path, config: dict[str, Any]) -> None:
    """Write `config.json`; from here on the run in `folder` is not done. Rank 0 calls it."""
    if (folder / DONE).exists():
        print(f"{folder} was done: what it made is written anew", flush=True)
        (folder / DONE).unlink()
    write_json(folder / "config.json", config)


def finish(folder: Path, step: int, result: Path) -> None:
    """Write `done.json`, the last file of a run that reached its last `step` and left `result`. Rank 0 calls it.

    Who waits for a run asks for this file: `deepspeed` exits with 0 as well if its launch.py was killed.
    """
    write_json(folder / DONE, {"step": step, "result": str(result.relative_to(folder))})


def forget_from(metrics: Path, step: int) -> None:
    """Drop the records from `step` on, since these steps will be repeated, and a line torn by a kill; collective."""
    if is_main() and metrics.exists():
        kept = [json.dumps(record, ensure_ascii=False) for record in read_jsonl(metrics) if record["step"] < step]
        write_file(metrics, "".join(line + "\n" for line in kept))
    barrier()
