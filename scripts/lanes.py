"""This project's commands, run side by side by other scripts: one thread each, their output in a log."""

import os
import subprocess
import sys
from pathlib import Path

from vlm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def run(log: Path, *command: str) -> None:
    """Run a command of this project on one thread, its output in `log`; a failure is a `UserError`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "w") as file:
        code = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=file
        ).returncode
    if code:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{' '.join(command[:2])} failed with exit code {code}: {last} (all of it: {log})")
