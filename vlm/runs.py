"""What a training run of either stage does with its folder, and when it is told to stop."""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vlm.checkpoint import recover
from vlm.distributed import barrier, from_main, is_main
from vlm.errors import UserError
from vlm.logs import read_jsonl

TERMINATED = 128 + signal.SIGTERM


@contextmanager
def locked(folder: Path, option: str = "--out") -> Iterator[None]:
    """Keep `folder` to this run; collective. `UserError` where another run holds it or it cannot be written.

    option: what the user gave it with. The lock goes with the process, however it ends.
    """
    with ExitStack() as held:
        problem = from_main(_lock(folder, option, held) if is_main() else None)
        if problem:  # one line, not one a rank
            raise UserError(problem) if is_main() else SystemExit(2)
        yield


def _lock(folder: Path, option: str, held: ExitStack) -> str | None:
    """Lock `folder` until `held` closes; or why that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((folder / ".lock").open("a+", encoding="utf-8"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        recover(folder)
        recover(folder / "checkpoints")
    except BlockingIOError:
        file.seek(0)
        return f"another run is writing to {folder} ({file.read().strip()}): wait for it, or give another {option}"
    except OSError as error:
        return f"cannot write to {folder} ({error.strerror}): give another {option}"
    return None


@contextmanager
def termination() -> Iterator[list]:
    """A list that is no longer empty once SIGTERM has come: the loop then saves and leaves."""
    signals: list = []
    before = signal.signal(signal.SIGTERM, lambda *_: signals.append(True))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def forget_from(metrics: Path, step: int) -> None:
    """Drop the records of steps that will be repeated, and a line torn by a kill; collective."""
    if is_main() and metrics.exists():
        kept = [json.dumps(record, ensure_ascii=False) for record in read_jsonl(metrics) if record["step"] < step]
        partial = metrics.with_name(metrics.name + ".tmp")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, metrics)
    barrier()
