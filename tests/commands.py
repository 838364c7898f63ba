"""Commands in processes of their own, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(script: str, *arguments, launcher: tuple[str, ...] = (), timeout: float = 480) -> subprocess.CompletedProcess:
    """Run `python script arguments` in the repository's root, on one CPU thread and without network.

    launcher: what stands between python and the script, as ("-m", "torch.distributed.run").
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def output(script: str, *arguments, expect: int = 0, **options) -> str:
    """What the command prints, stdout before stderr, once it has exited with the code `expect`."""
    done = start(script, *arguments, **options)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr
