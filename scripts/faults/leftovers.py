"""What a run leaves on the machine, and what it finds there: /dev/shm, a folder that refuses, a dead loader."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from faults.fault import Fault, Sweep, demand
from faults.launched import Left, launch, launch_in_vain
from faults.tiny import resume
from vlm.run.folder import locked

SHARED_MEMORY = Path("/dev/shm")


def faults(settings: Sweep) -> Iterator[Fault]:
    yield Fault("loader worker killed", 0, partial(kill_loader, settings))
    yield Fault("a run in a folder that another one holds", 0, partial(held_folder, settings))
    yield Fault("a run in a folder that cannot be written", 0, partial(unwritable_folder, settings))
    yield Fault("buffers in /dev/shm", 0, partial(shared_memory, settings))


def kill_loader(settings: Sweep, folder: Path) -> str:
    left = launch(settings, folder, 2, "1:5:step:loader")
    told(left, "error: a loader worker died")
    return f"one line, exit code 2; went on from {resume(settings, folder / 'run', 2)}, equal to the last bit"


def held_folder(settings: Sweep, folder: Path) -> str:
    with locked(folder / "run"):
        return told(launch_in_vain(settings, folder / "run", folder / "log"), "error: another run is writing to")


def unwritable_folder(settings: Sweep, folder: Path) -> str:
    (folder / "file").touch()
    return told(launch_in_vain(settings, folder / "file/run", folder / "log"), "error: cannot write to")


def told(left: Left, line: str) -> str:
    """Demand one line, no traceback, and the exit code of a user's error."""
    for unwanted in ("Traceback", "terminate called"):
        demand(unwanted not in left.text, f"{unwanted!r} beside the line")
    demand(left.text.count(line) == 1, f"{left.text.count(line)} lines {line!r}")
    demand(left.code == 2, f"exit code {left.code}")
    return "one line, exit code 2"


def shared_memory(settings: Sweep, folder: Path) -> str:
    """A buffer of a run that has ended is removed; a killed run leaves none."""
    old = SHARED_MEMORY / f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_fault_0"
    old.write_bytes(bytes(1000))
    before = set(SHARED_MEMORY.iterdir()) - {old}
    launch(settings, folder, 0, "0:4:step:kill-all")
    new = [path.name for path in set(SHARED_MEMORY.iterdir()) - before]
    demand(not new, f"left are {new}")
    return "the old one is removed, a killed run leaves none"
