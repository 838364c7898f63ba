"""Which processes are launchers, and what becomes of a process whose launcher dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vlm.run.launchers import is_launcher

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/v/bin/python /v/bin/deepspeed --num_gpus 2 pretrain/run.py", True),
        ("/usr/bin/python3.11 -u -m deepspeed.launcher.launch --world_info=e30= pretrain/run.py", True),
        ("python -W ignore /v/bin/torchrun --nproc-per-node 2 pretrain/run.py", True),
        ("python -m torch.distributed.run pretrain/run.py", True),
        ("python /v/bin/accelerate launch bridge/train.py", True),
        ("bash scripts/deepspeed", False),
        ("python supervisor.py deepspeed pretrain/run.py", False),
        ("python -m pytest deepspeed", False),
        ("python -c pass deepspeed", False),
        ("python -u", False),
        ("", False),
    ],
)
def test_a_launcher_is_known_by_its_command_line(command, expected):
    assert is_launcher(command.split()) == expected


STAND_IN = """import subprocess, sys
if sys.argv[1] != "0":
    word = [sys.executable, "torchrun", str(int(sys.argv[1]) - 1), sys.argv[2]]
else:
    word = [sys.executable, "-c", open("rank.py").read(), sys.argv[2]]
subprocess.run(word)
"""
RANK = """import os, sys, time
from pathlib import Path
from vlm.errors import run_command
from vlm.run.signals import stoppable
def main():
    with stoppable(deferred=True) as told:
        Path(sys.argv[1]).write_text(str(os.getpid()))
        while told() is None:
            time.sleep(0.01)
        Path(sys.argv[1] + ".told").write_text(str(told()))
run_command(main)
"""


@pytest.mark.parametrize("killed", [0, 1])
def test_the_death_of_the_launcher_and_of_its_own_launcher_is_told(tmp_path, killed):
    """torchrun -> torchrun -> rank, of which one torchrun gets kill -9; the one above it is not waited for."""
    (tmp_path / "torchrun").write_text(STAND_IN)
    (tmp_path / "rank.py").write_text(RANK)
    environment = {**os.environ, "RANK": "0", "PYTHONPATH": str(ROOT)}
    chain = subprocess.Popen([sys.executable, "torchrun", "1", "pid"], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline and chain.poll() is None
        time.sleep(0.05)
    rank = psutil.Process(int((tmp_path / "pid").read_text()))
    launchers = rank.parents()[:2]
    assert launchers[1].pid == chain.pid
    time.sleep(1)  # the thread has found its launchers
    launchers[killed].kill()
    while not (tmp_path / "pid.told").exists() or not (tmp_path / "pid.told").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "pid.told").read_text() == str(int(signal.SIGTERM))
    for launcher in launchers:
        if launcher.is_running():
            launcher.kill()
    chain.wait()
