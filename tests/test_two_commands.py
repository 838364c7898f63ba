"""The project's two commands, typed as they stand, in a clone in which nothing else was done."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder that holds what a clone does, and no runs/."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("vlm", "pretrain", "bridge", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def start(clone, line):
    """Start the command `line` in the clone, leading its own process group; returns it and its log."""
    binaries = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "HF_HOME": "none"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = clone / f"{len(list(clone.glob('*.log')))}.log"
    with log.open("w") as out:
        options: dict = {"cwd": clone, "env": environment, "stdout": out, "stderr": out, "start_new_session": True}
        return subprocess.Popen(shlex.split(line), **options), log


def say(clone, line):
    """Run the command `line` in the clone to its end: exit code, output."""
    process, log = start(clone, line)
    return process.wait(timeout=240), log.read_text()


def stopped_once_recorded(run, clone, line):
    """Run `line` until its first step is recorded, send SIGTERM to all its processes, and return the output."""
    process, log = start(clone, line)
    deadline, metrics = time.monotonic() + 240, clone / run / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline and not metrics.exists():
        time.sleep(0.2)
    assert process.poll() is None and metrics.exists(), log.read_text()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=120)
    while time.monotonic() < deadline and "the same command goes on from there" not in log.read_text():
        time.sleep(0.2)  # the launcher leaves before its processes do
    return log.read_text()


def test_without_an_encoder_or_llm_weights_one_line_names_the_command_that_makes_them(clone):
    code, said = say(clone, "python bridge/train.py --llm smollm2")
    assert (code, said) == (
        2,
        "error: runs/pretrain/encoder does not exist: run `deepspeed pretrain/run.py` first, or give --encoder DIR\n",
    )


def test_pretraining_draws_the_embedded_world_first_and_trains(clone):
    said = stopped_once_recorded("runs/pretrain", clone, "deepspeed pretrain/run.py")
    assert "no data given: drawing the embedded world into runs/world" in said
    assert "drawing train: 100%" in said and "runs/world made in" in said
    assert (clone / "runs/world/gqa").is_dir()
    assert "is saved, the same command goes on from there" in said


def test_the_bridge_then_needs_nothing_else(clone):
    made = "python pretrain/run.py --out runs/short --steps 0"
    code, said = say(clone, made)
    assert code == 0, said
    assert said.splitlines()[-1] == (
        "encoder written to runs/short/encoder; next: python bridge/train.py --llm smollm2 --encoder runs/short/encoder"
    )
    (clone / "runs/pretrain/encoder").symlink_to(clone / "runs/short/encoder")
    code, said = say(clone, "python bridge/train.py --llm qwen")
    assert code == 2 and said.splitlines()[-1].startswith(
        "error: Qwen/Qwen2.5-1.5B-Instruct is not in the local Hugging Face cache and the hub cannot be reached: "
    )
    said = stopped_once_recorded("runs/bridge-smollm2", clone, "python bridge/train.py --llm smollm2")
    assert "no data given: the embedded world in runs/world" in said
    assert "is saved, the same command goes on from there" in said


def test_the_quickstart_pretrains_what_the_bare_command_does():
    """So that the bare command goes on with the quickstart's run, and its encoder is that of `--preset tiny`."""
    script = (ROOT / "scripts/quickstart.sh").read_text()
    line = next(line for line in script.splitlines() if line.startswith("run deepspeed "))
    launcher, own = line.split(" pretrain/run.py ")
    assert [word for word in shlex.split(own) if word.startswith("--")] == ["--data", "--out", "--seed"]
    assert launcher == 'run deepspeed --include "localhost:${gpu%%,*}"'


@pytest.mark.parametrize(
    ("visible", "devices", "used"), [(None, 1, 0), (None, 3, 0), ("", 4, 0), ("2", 4, 2), ("3,1", 4, 3)]
)
def test_the_quickstart_pretrains_in_one_process_on_the_first_visible_gpu(visible, devices, used):
    """What DeepSpeed's launcher makes of the script's line. devices: GPUs, or NUMA nodes where there is none."""
    from deepspeed.launcher import runner

    lines = (ROOT / "scripts/quickstart.sh").read_text().splitlines()
    typed = [line for line in lines if line.startswith(("gpu=", "run deepspeed "))]
    script = "\n".join(["set -u; world=w; out=o; seed=0; run() { shift; printf '%s\\n' \"$@\"; }", *typed])
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    flags = runner.parse_args(done.stdout.splitlines())
    assert flags.user_script == "pretrain/run.py"
    assert runner.parse_inclusion_exclusion({"localhost": devices}, flags.include, flags.exclude) == {
        "localhost": [used]
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_stopped_quickstart_stops_its_steps_and_waits_for_them(tmp_path, number, code):
    """The script alone is told. Its steps here are programs that wait, and write down how they end."""
    scripts, binaries = tmp_path / "scripts", tmp_path / "bin"
    scripts.mkdir()
    binaries.mkdir()
    (scripts / "quickstart.sh").write_text((ROOT / "scripts/quickstart.sh").read_text())
    (scripts / "setup.sh").write_text(f"cd {tmp_path}; export PATH={binaries}:$PATH\n")
    step = """#!/bin/bash
case "$1" in scripts/make_world.py) exit 0 ;; esac
trap 'echo "$0 saved" >> ends; exit 1' TERM INT HUP
echo $$ >> begun
for _ in {1..300}; do sleep 0.1; done
"""
    for name in ("python", "deepspeed"):
        (binaries / name).write_text(step)
        (binaries / name).chmod(0o755)
    process, log = start(tmp_path, f"bash {scripts}/quickstart.sh")
    begun, ends, deadline = tmp_path / "begun", tmp_path / "ends", time.monotonic() + 30
    while time.monotonic() < deadline and not (begun.exists() and len(begun.read_text().split()) == 2):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=30) == code, log.read_text()
    assert f"{binaries}/deepspeed saved" in ends.read_text()
    while time.monotonic() < deadline and len(ends.read_text().splitlines()) < 2:
        time.sleep(0.05)  # the other lane is told last, and not waited for
    assert sorted(ends.read_text().splitlines()) == [f"{binaries}/{name} saved" for name in ("deepspeed", "python")]
