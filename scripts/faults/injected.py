"""A command with a fault in it: python -m faults.injected pretrain/run.py FLAGS, with FAULT in the environment.

    FAULT=rank:step:point:what        1:5:step:kill-launch

point: `step`, before the optimizer moves in that step (from 0); `fill`, `filled` or `saved`, while the checkpoint after
so many steps is written. what: one of `WHATS`. The process leaves the file $STRUCK when it has struck. A fault that the
run must notice by itself, such as the death of a launcher, is waited for here: else a tiny model is through before.
"""

import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from pretrain import train
from vlm.distributed import rank
from vlm.run.checkpoints import Checkpoints
from vlm.run.launchers import is_launcher
from vlm.run.signals import _told

PATIENCE = 20.0  # seconds in which a run must notice
LATE = 60.0  # seconds
DAY = 86400.0


def launchers() -> list[psutil.Process]:
    """launch.py and `deepspeed`."""
    return [parent for parent in psutil.Process().parents() if is_launcher(parent.cmdline())]


def _send(number: int, target: str) -> None:
    """To one process of the tree, or to the whole group as a terminal does."""
    if target == "group":
        os.killpg(os.getpgrp(), number)
    elif target == "all":
        ranks = launchers()[0].children()
        for process in [*launchers(), *ranks]:
            if process.pid != os.getpid():
                process.send_signal(number)
        os.kill(os.getpid(), number)
    else:
        own, launch, deepspeed = os.getpid(), *(process.pid for process in launchers()[:2])
        os.kill({"rank": own, "launch": launch, "deepspeed": deepspeed}[target], number)


def _until_told() -> None:
    deadline = time.monotonic() + PATIENCE
    while _told.number is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _stop_loader() -> None:
    """Kill the newest child, which is a loader worker."""
    os.kill(max(child.pid for child in psutil.Process().children()), signal.SIGKILL)


def _run_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 0 bytes free.")


def _turn_clock(by: float) -> None:
    real = time.time
    time.time = lambda: real() + by


NUMBERS = {"kill": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
TARGETS = ("rank", "all", "group", "launch", "deepspeed")
WHATS: dict[str, Callable[[], Any]] = {
    **{f"{name}-{target}": partial(_send, number, target) for name, number in NUMBERS.items() for target in TARGETS},
    "wait": lambda: None,  # for what the sweep does itself
    "loader": _stop_loader,
    "memory": _run_out,
    "late": lambda: time.sleep(LATE),
    "ahead": lambda: _turn_clock(DAY),
    "back": lambda: _turn_clock(-DAY),
}
AWAITED = {f"{name}-{target}" for name in NUMBERS for target in ("launch", "deepspeed")} | {"wait"}


def arm(spec: str) -> Callable[[], None]:
    """Put the fault into `pretrain.train` -> a function that takes it out again."""
    who, when, point, what = spec.split(":")
    at = int(when)
    real_update, real_save, real_batches = train.update, Checkpoints.save, train.CaptionBatches

    def strike() -> None:
        if rank() != int(who):
            return
        if path := os.environ.get("STRUCK"):
            Path(path).touch()
        WHATS[what]()
        if what in AWAITED:
            _until_told()

    steps = iter(range(10**9))

    class Batches(real_batches):
        def __iter__(self) -> Iterator[dict]:
            nonlocal steps
            steps = iter(self.steps)
            for step, batch in enumerate(super().__iter__(), start=self.steps.start):
                if (rank(), step) == (int(who), at) and what in ("nan", "spike"):
                    batch["images"] = batch["images"].float()
                    batch["images"][0] *= torch.nan if what == "nan" else 1000.0
                yield batch

    def update(*arguments: Any) -> torch.Tensor:
        step = next(steps)
        if point == "step" and step == at and what in WHATS:
            strike()
        return real_update(*arguments)

    def save(self: Checkpoints, step: int, fill: Callable[[Path], None], *more: Any) -> None:
        def filled(folder: Path) -> None:
            if (step, point) == (at, "fill"):
                strike()
            fill(folder)
            if (step, point) == (at, "filled"):
                strike()

        real_save(self, step, filled, *more)
        if (step, point) == (at, "saved"):
            strike()

    def disarm() -> None:
        train.update, Checkpoints.save, train.CaptionBatches = real_update, real_save, real_batches

    train.update, Checkpoints.save, train.CaptionBatches = update, save, Batches  # type: ignore[assignment]
    return disarm


def main() -> None:
    given = sys.argv[1:]
    from_launcher = [word for word in given if word.startswith("--local_rank")]
    command = [word for word in given if word not in from_launcher]
    if spec := os.environ.get("FAULT"):
        arm(spec)
    sys.argv = [*command, *from_launcher]
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
