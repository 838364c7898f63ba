"""A run under `deepspeed` with a fault in it: what its processes leave behind, and for how long."""

import fcntl
import signal
import subprocess
import termios
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from faults.fault import Sweep, demand
from faults.resident import ROOT, environment
from faults.tiny import flags, free_port
from vlm.run.signals import WORDS

LAUNCH = 300.0  # seconds in which a run must come to its fault, on a busy machine
LEAVE = 20.0  # seconds in which all of its processes must be gone


@dataclass(frozen=True)
class Left:
    """What is known when the run is gone. code: of `deepspeed`. text: what all processes said."""

    code: int
    seconds: float
    text: str


def alive(mark: str) -> list[psutil.Process]:
    """The processes of the run that has `mark` in its environment, without those that have ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAULT_RUN") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def launch(
    settings: Sweep,
    folder: Path,
    stage: int,
    fault: str,
    then: Callable[[], None] | None = None,
    terminal: int | None = None,
) -> Left:
    """Start the tiny run into folder/run with `fault`, and wait until all of its processes are gone.

    then: called when the fault has struck. terminal: what it runs on, by default it writes into folder/log.
    Raises: Failed if one is alive 20 s after the fault.
    """
    mark, struck, log = uuid.uuid4().hex, folder / "struck", folder / "log"
    arguments = flags(settings, folder / "run", stage)
    process = _start(arguments, log, {"FAULT": fault, "FAULT_RUN": mark, "STRUCK": str(struck)}, terminal)
    try:
        _wait(lambda: struck.exists() or process.poll() is not None, LAUNCH, "the fault never struck")
        begun = time.monotonic()
        demand(struck.exists(), f"it ended before the fault: {log.read_text()[-300:]}")
        if then:
            then()
        _wait(lambda: process.poll() is not None and not alive(mark), LEAVE, "orphans after 20 s")
        return Left(process.wait(), time.monotonic() - begun, log.read_text(errors="replace"))
    finally:
        for left in alive(mark):
            left.kill()
        process.kill()
        process.wait()


def launch_in_vain(settings: Sweep, run: Path, log: Path) -> Left:
    """Start the tiny run into a folder that will not have it, and wait for its end."""
    begun = time.monotonic()
    process = _start(flags(settings, run, 1), log, {})
    _wait(lambda: process.poll() is not None, LAUNCH, "it does not end")
    return Left(process.wait(), time.monotonic() - begun, log.read_text(errors="replace"))


def _start(arguments: list[str], log: Path, variables: dict[str, str], terminal: int | None = None) -> subprocess.Popen:
    """`deepspeed` with two ranks in a session of its own."""
    command = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "--module", "faults.injected"]
    command += ["pretrain/run.py", *arguments]

    def prepare() -> None:
        for number in WORDS:  # nohup, or a shell's `&`, may have had them ignored
            signal.signal(number, signal.SIG_DFL)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    with log.open("wb") as file:
        output = file if terminal is None else terminal
        streams: dict[str, Any] = {"stdin": terminal or subprocess.DEVNULL, "stdout": output, "stderr": output}
        where: dict[str, Any] = {"cwd": ROOT, "env": environment(**variables)}
        return subprocess.Popen(command, **streams, **where, start_new_session=True, preexec_fn=prepare)


def _wait(until: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        demand(time.monotonic() < deadline, otherwise)
        time.sleep(0.1)
