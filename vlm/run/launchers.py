"""Watches the launchers between this process and whoever typed the command: when one dies, the run stops as by SIGTERM.

    deepspeed (runner.py) ─> launch.py ─> rank            torchrun, accelerate launch ─> rank
    scripts/study.py ─> command of a cell, with or without a launcher of its own

`deepspeed` dies of SIGTERM alone, launch.py of kill -9, and the ranks would train on unseen. A thread looks twice a
second. The kernel's PR_SET_PDEATHSIG would not do: it follows the thread that started us and not the launcher, and it
knows no grandparent. Only processes that are launchers by their command line are watched, so neither a shell that ends
under nohup, setsid or SLURM nor a plain `python` is of any account. A study, whose commands run in sessions of their
own, names itself in the environment.
"""

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from vlm.run.signals import was_told

if TYPE_CHECKING:
    import psutil

EVERY = 0.5  # seconds
SCRIPTS = {"deepspeed", "deepspeed.pt", "torchrun", "accelerate", "accelerate-launch"}
LAUNCH = "deepspeed.launcher.launch"
MODULES = {
    LAUNCH, "deepspeed.launcher.runner", "torch.distributed.run", "torch.distributed.launch",
    "accelerate.commands.launch", "accelerate.commands.accelerate_cli",
}  # fmt: skip
STUDY = "LEVLM_STUDY"  # scripts/study.py's process id, in the environment of its commands
MARKS = ("RANK", "ACCELERATE_MIXED_PRECISION", STUDY)  # what launchers put into the environment


def is_launcher(command: Sequence[str]) -> bool:
    """Whether a command line is Python's with one of the launchers: `python -u -m torch.distributed.run ...`"""
    words = list(command)
    if not words or "python" not in os.path.basename(words.pop(0)):
        return False
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option == "-m":
            return bool(words) and words[0] in MODULES
        if option == "-c":
            return False
        if option in ("-W", "-X"):  # with a value
            del words[:1]
    return bool(words) and os.path.basename(words[0]) in SCRIPTS


def watch_launchers() -> None:
    """Send this process SIGTERM when one of its launchers dies, or has died already, unless it was told to stop."""
    if any(mark in os.environ for mark in MARKS):
        threading.Thread(target=_watch, name="launchers", daemon=True).start()


def _watch() -> None:
    import psutil  # not at `--help` time

    parents: list[psutil.Process] = []
    with suppress(psutil.Error):
        parents = psutil.Process().parents()
    study = os.environ.get(STUDY)
    of_study = [parent for parent in parents if str(parent.pid) == study]
    launchers = [parent for parent in parents if is_launcher(_command(parent))]
    watched = [*launchers, *of_study]
    orphan = _lost(launchers) or (study is not None and not of_study)
    while not orphan and watched:
        time.sleep(EVERY)
        orphan = any(_dead(launcher) for launcher in watched)
    if orphan and not was_told():  # a second signal would mean: leave at once, without saving
        os.kill(os.getpid(), signal.SIGTERM)


def _command(process: "psutil.Process") -> list[str]:
    import psutil

    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _dead(process: "psutil.Process") -> bool:
    """Whether it has ended, waited for by its parent or not."""
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _lost(launchers: Sequence["psutil.Process"]) -> bool:
    """Whether one died before we looked: then init has our parent's place, or that of the local launch.py."""
    if not launchers:
        return os.getppid() == 1 and ("CROSS_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ)
    command = _command(launchers[-1])
    return LAUNCH in command and launchers[-1].ppid() == 1 and _is_local(command)


def _is_local(command: Sequence[str]) -> bool:
    """Whether `deepspeed` started this launch.py itself: on other machines, ssh does, and may be gone."""
    for word in command:
        if word.startswith("--world_info="):
            with suppress(ValueError):
                return [*json.loads(base64.urlsafe_b64decode(word.partition("=")[2]))] == ["localhost"]
    return False
