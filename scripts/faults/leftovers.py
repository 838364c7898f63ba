"""What a run leaves on the machine, and what it finds there of others: /dev/shm, a locked folder, a loader's death."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from faults.fault import Fault, Sweep, demand
from faults.launched import launch
from faults.tiny import resume

SHARED_MEMORY = Path("/dev/shm")


def faults(settings: Sweep) -> Iterator[Fault]:
    yield Fault("loader worker killed", 0, partial(kill_loader, settings))


def kill_loader(settings: Sweep, folder: Path) -> str:
    left = launch(settings, folder, 2, "1:5:step:loader")
    demand("error: a loader worker died" in left.text, "no line about the loader")
    demand("Traceback" not in left.text, "a traceback beside the line")
    demand(left.code == 2, f"exit code {left.code}")
    return f"one line, exit code 2; went on from {resume(settings, folder / 'run', 2)}, equal to the last bit"
