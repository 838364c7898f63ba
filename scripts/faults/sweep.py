"""Runs the chosen faults one after the other and prints fault, seed, outcome."""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from faults.fault import Failed, Fault, Sweep
from vlm.errors import UserError

KINDS = ("kills", "stops", "steps", "leftovers", "mutations", "disk", "inputs", "web")
PRIVATE = "FAULT_SWEEP_PRIVATE"  # set once /dev/shm is the sweep's own


def with_private_shared_memory() -> None:
    """Start this command anew with a /dev/shm of its own, if the system allows it; what is left there is then ours."""
    if os.environ.get(PRIVATE) or sys.platform != "linux":
        return
    alone = ["unshare", "--mount", "--propagation", "private"]
    if os.getuid():
        alone.append("--map-root-user")
    mount = 'mount -t tmpfs -o size=2g tmpfs /dev/shm && exec "$@"'
    if shutil.which("unshare") and not subprocess.run([*alone, "bash", "-c", mount, "-", "true"]).returncode:
        environment = {**os.environ, PRIVATE: "1"}
        os.execvpe("unshare", [*alone, "bash", "-c", mount, "-", sys.executable, *sys.argv], environment)
    print("/dev/shm is shared with the machine: what is left there is not counted", file=sys.stderr)


def chosen(settings: Sweep) -> list[tuple[str, Fault]]:
    """The kind and the fault of every row. Raises: UserError if a word of --only is of none."""
    rows = []
    unused = set(settings.only)
    for kind in KINDS:
        for fault in importlib.import_module(f"faults.{kind}").faults(settings):
            fitting = {word for word in settings.only if word == kind or word in fault.name}
            unused -= fitting
            if fitting or not settings.only:
                rows.append((kind, fault))
    if unused:
        words = " ".join(map(repr, sorted(unused)))
        raise UserError(f"--only {words}: no fault has it in its name; the kinds are {', '.join(KINDS)}")
    return rows


def outcome(fault: Fault, kind: str, settings: Sweep) -> tuple[bool, str]:
    """Strike once, in a folder of its own -> whether it was survived, and how."""
    folder = Path(tempfile.mkdtemp(prefix=f"fault-{kind}-"))
    survived, words = False, ""
    try:
        survived, words = True, fault.strike(folder)
    except Failed as failure:
        words = f"FAIL: {failure}"
    except Exception as error:  # a fault of the fault: it must not hide the rows that follow
        traceback.print_exc()
        words = f"FAIL: {type(error).__name__}: {error}"
    if settings.keep and not survived:
        kept = Path(settings.keep) / folder.name
        shutil.move(folder, kept)
        return False, f"{words} (left in {kept})"
    shutil.rmtree(folder, ignore_errors=True)
    return survived, words


def run(settings: Sweep) -> bool:
    """Print the table; whether every fault was survived. Raises: UserError if a word of --only is of none."""
    failed = count = 0
    rows = chosen(settings)
    print("| fault | seed | outcome | seconds |\n| --- | --- | --- | --- |", flush=True)
    try:
        for kind, fault in rows:
            begun = time.monotonic()
            survived, words = outcome(fault, kind, settings)
            failed, count = failed + (not survived), count + 1
            cells = (fault.name, fault.seed, " ".join(words.split()), f"{time.monotonic() - begun:.0f}")
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    finally:
        settings.end()
    print(f"\n{count - failed} of {count} survived")
    return not failed
