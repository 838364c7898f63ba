"""SIGTERM, SIGINT and SIGHUP to each process of the tree, to all at once as a terminal sends them, a closed terminal.

Each time the step is finished and saved, all processes leave within 20 s, and the run goes on to the same last bit.
"""

import os
import pty
import select
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from faults.fault import Fault, Sweep, demand
from faults.launched import Left, launch
from faults.tiny import losses, resume
from vlm.run.steps import committed_steps

STAGE, STEP = 1, 4  # behind the checkpoint of step 4, before that of step 6
SIGNALS, TARGETS = ("TERM", "INT", "HUP"), ("rank", "launch", "deepspeed")


def faults(settings: Sweep) -> Iterator[Fault]:
    for target in (*TARGETS, "group"):
        for name in SIGNALS:
            yield Fault(f"SIG{name} to {target}", 0, partial(stop, settings, f"{name}-{target}"))
    yield Fault("terminal closed", 0, partial(hang_up, settings))


def stop(settings: Sweep, what: str, folder: Path) -> str:
    left = launch(settings, folder, STAGE, f"0:{STEP}:step:{what}")
    return judged(settings, folder / "run", left)


def hang_up(settings: Sweep, folder: Path) -> str:
    """What the run writes to is gone, as when ssh breaks off; the session's leader is `deepspeed`."""
    ours, its = pty.openpty()
    closing = threading.Event()
    reader = threading.Thread(target=_read, args=(ours, closing))
    reader.start()

    def close() -> None:
        closing.set()
        reader.join()
        os.close(its)
        os.close(ours)

    left = launch(settings, folder, STAGE, f"0:{STEP}:step:wait", close, its)
    return judged(settings, folder / "run", left)


def _read(terminal: int, closing: threading.Event) -> None:
    """As a terminal does: what nobody reads would stop who writes."""
    while not closing.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 1 << 16)


def judged(settings: Sweep, run: Path, left: Left) -> str:
    """Demand that no step was lost."""
    steps = committed_steps(run / "checkpoints")
    demand(steps[-1:] == [len(losses(run))], f"{len(losses(run))} steps were made, saved are {steps}")
    demand(steps[-1] > STEP, f"the step {STEP} is lost: saved are {steps}")
    start = resume(settings, run, STAGE)
    return f"saved step {start} and left in {left.seconds:.1f} s, exit code {left.code}; went on to the last bit"
