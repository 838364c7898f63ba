"""Processes of this checkout: their environment, and one that stays to answer jobs, seen from both of its ends."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.fault import demand

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Of a process that runs this checkout on CPU ranks of one thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed, **more}


class Resident:
    """The process of a module that calls `serve`; a new one takes its place after `end`."""

    def __init__(self, module: str, log: Path, **variables: str) -> None:
        self.module, self.log, self.variables = module, log, variables
        self.process: Any = None

    def give(self, job: dict) -> None:
        if self.process is None:
            with self.log.open("a") as errors:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", self.module], cwd=ROOT, env=environment(**self.variables), text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
        print(json.dumps(job), file=self.process.stdin, flush=True)

    def answer(self, bound: float | None = None) -> Any:
        """To the job that was given last. Raises: Failed if the process ends, or takes more than `bound` seconds."""
        answers: Any = self.process.stdout
        ready, _, _ = select.select([answers], [], [], bound)
        line = answers.readline() if ready else ""
        if not line:
            self.end()
            demand(bool(ready), f"HANGS: no answer within {bound} s")
            demand(False, "the process died")
        return json.loads(line)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def serve(answered: Callable[[dict], Any]) -> None:
    """Answer job after job, in the process itself. What they print goes to its log, and they have nothing to read."""
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for line in jobs:
        print(json.dumps(answered(json.loads(line))), file=answers, flush=True)
    os._exit(0)
