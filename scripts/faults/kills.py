"""kill -9 of a rank, of all processes, of launch.py, of `deepspeed`, at a seeded point of a seeded step.

Whatever lives on must save and leave within 20 s, and the run must go on to the same last bit.
"""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from faults.fault import Fault, Sweep
from faults.launched import launch
from faults.tiny import SAVE_EVERY, resume

TARGETS = ("rank", "all", "launch", "deepspeed")


def faults(settings: Sweep) -> Iterator[Fault]:
    for seed in settings.seeds(settings.kills):
        target = TARGETS[seed % len(TARGETS)]
        yield Fault(f"kill -9 of {target}", seed, partial(kill, settings, seed, target))


def kill(settings: Sweep, seed: int, target: str, folder: Path) -> str:
    choose = random.Random(seed)
    stage, who = seed // len(TARGETS) % 4, choose.randrange(2)
    point = choose.choice(("step", "fill", "filled", "saved"))
    step = choose.randrange(3, 9) if point == "step" else SAVE_EVERY * choose.randrange(2, 5)
    left = launch(settings, folder, stage, f"{who}:{step}:{point}:kill-{target}")
    start = resume(settings, folder / "run", stage)
    words = f"ZeRO-{stage}, rank {who}, {point} {step}: all gone in {left.seconds:.1f} s, exit code {left.code}"
    return f"{words}; went on from {start}, equal to the last bit"
