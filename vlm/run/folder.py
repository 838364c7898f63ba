"""A run's folder is its own: one process group writes there, and nothing that it recorded is lost."""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vlm.distributed import barrier, from_main, is_main
from vlm.errors import UserError
from vlm.files import read_jsonl, recover

# What flock says on a file system that has no locks, such as Lustre mounted without `-o flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(folder: Path, option: str = "--out") -> Iterator[None]:
    """Keep `folder` to this run; collective. The lock goes with the process, however it ends.

    option: the flag that the user gave it with, for messages.

    Raises:
        UserError: another run holds the folder, or it cannot be written.
    """
    with ExitStack() as held:
        problem = from_main(_lock(folder, option, held) if is_main() else None)
        if problem:  # one line, not one a process
            raise UserError(problem) if is_main() else SystemExit(2)
        yield


def _lock(folder: Path, option: str, held: ExitStack) -> str | None:
    """Lock `folder` until `held` closes -> None, or why that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((folder / ".lock").open("a+", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            return f"another run is writing to {folder} ({file.read().strip()}): wait for it, or give another {option}"
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"warning: {folder} cannot be locked ({error.strerror}): make sure that no second run writes there",
                file=sys.stderr,
            )
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        recover(folder)
        recover(folder / "checkpoints")
    except OSError as error:
        return f"cannot write to {folder} ({error.strerror}): give another {option}"
    return None


def forget_from(metrics: Path, step: int) -> None:
    """Drop the records of steps that will be repeated, and a line torn by a kill; collective."""
    if is_main() and metrics.exists():
        kept = [json.dumps(record, ensure_ascii=False) for record in read_jsonl(metrics) if record["step"] < step]
        partial = metrics.with_name(metrics.name + ".tmp")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, metrics)
    barrier()
