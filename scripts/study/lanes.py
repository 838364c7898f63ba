"""Cells side by side: each in a lane of its own, a GPU or a core, its output in a log."""

import json
import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bridge.same_run import weights_key
from study.cells import Cell
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.run.launchers import STUDY

ROOT = Path(__file__).resolve().parents[2]
_commands: set[subprocess.Popen] = set()  # that run now, in whatever lane


def run_logged(log: Path, command: Sequence[str], lane: Mapping[str, str] | None = None) -> None:
    """Run a command of this project on one thread, its output in `log`. lane: environment variables of its lane.

    Raises: UserError if the command failed; the message has what it said of the error.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **(lane or {})}
    environment[STUDY] = str(os.getpid())  # of a study that is killed, the command saves its step and ends
    with open(log, "a") as file:  # not "w": a killed study's command may still be writing, and nothing of it is lost
        before = file.tell()
        program = [sys.executable, str(ROOT / command[0]), *command[1:]]
        # In a session of its own: Ctrl-C then reaches the study alone, which tells each command once. A second signal
        # would mean "leave at once", without saving the step.
        with subprocess.Popen(program, env=environment, stdout=file, stderr=file, start_new_session=True) as running:
            _commands.add(running)
            code = running.wait()
            _commands.discard(running)
    if code:
        raise UserError(f"{command[0]} failed with exit code {code}: {_reason(log, before)} (all of it: {log})")


def _reason(log: Path, start: int) -> str:
    """The last error in a log from the byte `start` on; the last line if no line is one."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines() or ["no output"]
    # The last line may be of another command: one that a killed study left, and that is about to end.
    errors = [line for line in lines if line.startswith("error: ")]
    return [*lines, *errors][-1]


def record(out: Path, cell: Cell) -> dict | None:
    """What is kept of a cell that is done, {"commands", "after", "given", "seconds"}.

    None if it is not done, if its product is gone, or if other commands or models have made it or what it is made from.
    """
    found = _kept(out, cell) if cell.product.is_file() else {}
    return found if found and _same(_movable(out, found), made_by(out, cell)) else None


def _same(kept: Mapping, made: Mapping) -> bool:
    """Whether a record is of what `made` says. Models that one of both could not read may be the same."""
    then, now = kept.get("given", {}), made["given"]  # records of before do not say
    known = [name for name in now if now[name] and then.get(name)]
    same_models = all(then[name] == now[name] for name in known)
    return same_models and all(kept.get(key) == made[key] for key in ("commands", "after"))


def _kept(out: Path, cell: Cell) -> dict:
    """The cell's record, whoever has made it; {} if there is none, or none that can be read."""
    file = out / "cells" / f"{cell.name}.json"
    try:
        found = read_json(file) if file.is_file() else {}
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def made_by(out: Path, cell: Cell) -> dict:
    """What tells whether a cell is the one that is asked for: its commands, those before it, weights given to it."""
    made = {"commands": cell.commands, "after": cell.after, "given": {name: _weights(name) for name in cell.given}}
    return _movable(out, made)


_weights = cache(lambda folder: weights_key(Path(folder)))


def _movable(out: Path, value: Any) -> Any:
    """As JSON gives it back, with OUT in place of the study's folder, so that this may be moved."""
    folder = re.escape(json.dumps(str(out))[1:-1])
    return json.loads(re.sub(f'(?<=[":= ]){folder}(?=[/" ])', "OUT", json.dumps(value)))


def run_cell(out: Path, cell: Cell, lane: Mapping[str, str]) -> float:
    """Run the commands of a cell, each of which goes on where it was cut off; returns the seconds that it took."""
    started = time.monotonic()
    for number, command in enumerate(cell.commands):
        run_logged(out / "logs" / f"{cell.name}.{number}.log", command, lane)
    seconds = round(time.monotonic() - started, 1)
    made, kept = made_by(out, cell), _kept(out, cell)
    # What was done before is not done again: the longest call tells best what the whole of it takes.
    longest = (
        max(seconds, kept.get("seconds", 0)) if _movable(out, kept.get("commands")) == made["commands"] else seconds
    )
    (out / "cells").mkdir(parents=True, exist_ok=True)
    write_json(out / "cells" / f"{cell.name}.json", {**made, "seconds": longest})
    return seconds


def run_all(out: Path, cells: Sequence[Cell], lanes: Sequence[Mapping[str, str]], say: Callable[[str], None]) -> None:
    """Run the cells, each as soon as what it needs is done and a lane is free.

    A cell that fails stops those that need it, and no other.
    Raises: UserError at the end, if any has failed.
    """
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def in_a_lane(cell: Cell) -> float:
        lane = free.get()
        try:
            return run_cell(out, cell, lane)
        finally:
            free.put(lane)

    waiting, running = {cell.name: cell for cell in cells}, {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(len(lanes)) as pool, _none_left_behind(pool):
        while waiting or running:
            for cell in list(waiting.values()):
                blocked = [name for name in cell.needs if name in failed]
                if blocked:
                    failed[cell.name] = f"needs {blocked[0]}"
                    del waiting[cell.name]
                elif not any(name in waiting or name in running.values() for name in cell.needs):
                    running[pool.submit(in_a_lane, waiting.pop(cell.name))] = cell.name
            if running:
                _finished(running, failed, len(cells), len(waiting), say)
    if failed:
        text = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise UserError(f"{len(failed)} of {len(cells)} cells failed ({text}): mend it and call this again")


@contextmanager
def _none_left_behind(pool: ThreadPoolExecutor) -> Iterator[None]:
    """If a signal ends the study, start nothing more and let the commands that run save what they have."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for running in list(_commands):
            running.terminate()
        raise  # the pool then waits for its threads, and they for the commands


def _finished(running: dict[Future[float], str], failed: dict[str, str], cells: int, waiting: int, say) -> None:
    """Wait for a cell to end, and tell how."""
    ended, _ = wait(running, return_when=FIRST_COMPLETED)
    for job in ended:
        name = running.pop(job)
        left = f"{waiting + len(running)} of {cells} to go"
        try:
            say(f"{name}: done in {job.result():.0f} s, {left}")
        except UserError as error:
            failed[name] = str(error)
            say(f"{name}: FAILED, {left}: {error}")
