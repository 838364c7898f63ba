"""scripts/study.py: cells in lanes and as SLURM jobs, once each, and what a stop leaves."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from studies import settings
from study import command, lanes, places
from study.cells import Cell

from vlm.errors import UserError


def test_a_cell_runs_once_and_a_failure_stops_only_what_needs_it(tmp_path, monkeypatch, capsys):
    for name in ("pretrain/run.py", "bridge/train.py", "bridge/evaluate.py"):
        script = tmp_path / "root" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("import pathlib, sys\nif 'clip' in sys.argv: sys.exit('no room')\n"
                          f"print(*sys.argv[1:], file=open({str(tmp_path / 'calls')!r}, 'a'))\n"
                          "for made in ('encoder/config.json', 'results.json'):\n"
                          "    file = pathlib.Path(sys.argv[sys.argv.index('--out') + 1], made)\n"
                          "    file.parent.mkdir(parents=True, exist_ok=True)\n"
                          "    file.write_text('{}')\n")  # fmt: skip
    monkeypatch.setattr(lanes, "ROOT", tmp_path / "root")
    monkeypatch.setattr(command, "report", lambda settings: print("the report"))

    def fail(settings):
        raise UserError("there is no table")

    monkeypatch.setattr(places, "CHECKS", {})
    place = ("--gqa", "g", "--captions", "c", "--out", tmp_path / "out", "--seeds", "0", "--lanes", "2")
    study = settings("--encoders", "clip", "random:clip", "siglip", "blind", *place)
    with pytest.raises(UserError, match=r"^3 of 6 cells failed \(pretrain-clip-0: .* exit code 1: no room .*needs pre"):
        command.run(study)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("--llm" in call for call in calls) == 2 and len(calls) == 5  # siglip and its bridge, blind's
    assert capsys.readouterr().out.endswith("the report\n")
    monkeypatch.setattr(command, "report", fail)
    with pytest.raises(UserError, match=r"^3 of 3 cells failed"):  # the others are done
        command.run(study)
    assert capsys.readouterr().out.endswith("no report: there is no table\n")
    assert len((tmp_path / "calls").read_text().splitlines()) == 5
    command.run(settings("--encoders", "siglip", "blind", *place, "--dry-run"))
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 3 cells to run in 2 lanes"
    (tmp_path / "out/bridge-blind-smollm2-0/eval/results.json").unlink()
    study = ("--encoders", "siglip", "blind", *place, "--pretrain-flags=--lr 1e-4", "--dry-run")
    command.run(settings(*study))
    # Blind's scores are gone; siglip's bridge was made from an encoder that other flags have trained.
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 of 3 cells to run in 2 lanes")
    command.run(settings(*study, "--only", "bridge-blind-smollm2-0"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 of 1 cells to run in 2 lanes")
    with pytest.raises(UserError, match="--only x: the cells are pretrain-siglip-0, bridge-siglip-smollm2-0, bridge-"):
        command.run(settings("--encoders", "siglip", "blind", *place, "--only", "x"))


def test_a_study_that_is_stopped_leaves_nothing_running(tmp_path, monkeypatch):
    script = tmp_path / "cell.py"
    script.write_text(
        "import sys, time\nopen(sys.argv[1], 'w').close()\nwhile 'long' in sys.argv[1]: time.sleep(0.05)\n"
    )
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    names = ("long", "short", "never", "nor this")
    found = [Cell(name, (("cell.py", str(tmp_path / name)),), tmp_path / name) for name in names]

    def stop(*_):
        while not (tmp_path / "long").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "_finished", stop)
    with pytest.raises(KeyboardInterrupt):
        lanes.run_all(tmp_path / "out", found, [{}], print)
    assert not lanes._commands
    assert (tmp_path / "long").exists() and not any((tmp_path / name).exists() for name in names[1:])


def test_lanes_are_the_gpus_that_the_user_chose(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert command._lanes(settings("--lanes", "3")) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("5", "GPU-7", "5")]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert command._lanes(settings()) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def test_every_cell_is_a_job_after_those_it_needs(tmp_path, monkeypatch, capsys):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nn=$(cat {tmp_path}/n 2>/dev/null || echo 10)\necho $((n + 1)) > {tmp_path}/n\n'
                      f'for a in "$@"; do echo "$a"; done >> {tmp_path}/jobs\necho $n\n')  # fmt: skip
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(places, "CHECKS", {})
    place = ("--gqa", "g", "--captions", "c", "--out", tmp_path / "out", "--seeds", "0")
    command.run(settings("--encoders", "clip", "blind", *place, "--slurm", "sbatch --gres=gpu:1"))
    assert capsys.readouterr().out.splitlines() == [
        "pretrain-clip-0: job 10", "bridge-clip-smollm2-0: job 11", "bridge-blind-smollm2-0: job 12",
        "report: job 13; call this again for jobs that failed",
    ]  # fmt: skip
    jobs = (tmp_path / "jobs").read_text().splitlines()
    assert [line for line in jobs if "dependency" in line] == [
        "--dependency=afterok:10",
        "--dependency=afterany:10:11:12",
    ]
    wrapped = [line for line in jobs if line.startswith("--wrap=")]
    assert wrapped[1].startswith(f"--wrap={sys.executable} ") and wrapped[1].endswith("--only bridge-clip-smollm2-0")
    assert "--encoders clip blind --seeds 0" in wrapped[1] and "--slurm" not in wrapped[1]
    assert jobs.count("--kill-on-invalid-dep=yes") == 4  # else one failed job would keep the report waiting for ever
    # While jobs are queued, a second call starts none of them again; the report waits for all.
    for name, text in {"squeue": "echo 10; echo 12; echo 13", "scancel": f"echo $1 > {tmp_path}/ended"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command.run(settings("--encoders", "clip", "blind", *place, "--slurm", "sbatch"))
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "pretrain-clip-0: job 10 still waits or runs", "bridge-clip-smollm2-0: job 14",
        "bridge-blind-smollm2-0: job 12 still waits or runs",
    ]  # fmt: skip
    jobs = (tmp_path / "jobs").read_text().splitlines()
    assert [line for line in jobs if "dependency" in line][2:] == [
        "--dependency=afterok:10",
        "--dependency=afterany:10:12:14",
    ]
    assert (tmp_path / "ended").read_text() == "13\n"
    sbatch.write_text("#!/bin/sh\necho QOSMaxSubmitJobPerUserLimit >&2\nexit 1\n")
    refused = "sbatch refused bridge-clip-smollm2-0: QOSMax.*; queued are 10 12 "
    with pytest.raises(UserError, match=refused):
        command.run(settings("--encoders", "clip", "blind", *place, "--slurm", "sbatch"))
    other = settings("--encoders", "clip", "blind", *place, "--slurm", "sbatch", "--bridge-flags", "--lr 1e-4")
    with pytest.raises(UserError, match="bridge-blind-smollm2-0: job 12 is of other settings: scancel 12, or wait"):
        command.run(replace(other, only=("bridge-blind-smollm2-0",)))
    (tmp_path / "squeue").write_text("#!/bin/sh\necho down >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"squeue does not say which jobs of .*slurm\.json still wait \(down\)"):
        command.run(other)
    with pytest.raises(UserError, match="--slurm: give the command that submits a job"):
        command.run(settings("--encoders", "clip", *place, "--slurm", " "))
    with pytest.raises(UserError, match="--slurm nothing: there is no nothing here"):
        command.run(settings("--encoders", "clip", *place, "--slurm", "nothing"))


STUDY = """
import sys
from pathlib import Path
from study import lanes
from study.cells import Cell
from vlm.errors import run_command
lanes.ROOT = Path(sys.argv[1])
cell = Cell("c", (("cell.py", sys.argv[1]),), Path(sys.argv[1], "never"))
run_command(lambda: lanes.run_all(Path(sys.argv[1], "out"), [cell], [{}], print))
"""
TOLD = """
import signal, sys, time
from pathlib import Path
told = Path(sys.argv[1], "told")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.write_text(told.read_text() + f"{number} "))
told.write_text("")
while not told.read_text():
    time.sleep(0.05)
time.sleep(0.5)  # for a second signal
"""


def test_ctrl_c_in_a_terminal_tells_a_command_once(tmp_path):
    (tmp_path / "cell.py").write_text(TOLD)
    root = str(Path(command.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root}/scripts"}
    study = subprocess.Popen(
        [sys.executable, "-c", STUDY, str(tmp_path)], env=environment, start_new_session=True, stderr=subprocess.PIPE
    )
    while not (tmp_path / "told").exists():
        time.sleep(0.05)
    os.killpg(study.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, said = study.communicate(timeout=60)
    assert study.returncode == 130 and said.decode() == "interrupted\n"
    assert (tmp_path / "told").read_text() == f"{signal.SIGTERM.value} "  # a second one would mean: leave at once


RANK = """
import subprocess, sys, time
from pathlib import Path
from vlm.errors import run_command
from vlm.run.signals import stoppable
def main():
    with stoppable(deferred=True) as told:
        Path(sys.argv[1], "ready").touch()
        while told() is None:
            time.sleep(0.05)
        Path(sys.argv[1], "told").write_text(str(told()))
        time.sleep(1.5)  # while it saves
        Path(sys.argv[1], "saved").touch()
if sys.argv[2:]:
    run_command(main)
else:  # as deepspeed does, which is not killed
    subprocess.run([sys.executable, __file__, sys.argv[1], "rank"])
"""


@pytest.mark.parametrize("told_before", [False, True])
def test_a_command_of_a_study_that_gets_kill_9_saves_and_ends(told_before, tmp_path):
    alone = "import sys; sys.argv.append('rank')\n" if told_before else ""  # without a launcher in between
    (tmp_path / "cell.py").write_text(alone + RANK)
    root = str(Path(command.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root}/scripts"}
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline and study.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # it has found its study
    if told_before:
        study.terminate()
        while not (tmp_path / "told").exists():
            time.sleep(0.05)
    study.kill()
    study.wait()
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "told").read_text() == str(signal.SIGTERM.value)


def test_a_log_keeps_what_others_write_and_the_reason_is_the_commands_own(tmp_path, monkeypatch):
    log = tmp_path / "logs/c.log"
    log.parent.mkdir()
    log.write_text("error: of yesterday\n")
    (tmp_path / "cell.py").write_text(
        f"import sys\nprint('error: another run is writing', flush=True)\n"
        f"open({str(log)!r}, 'a').write('step 7 of another run\\n')\nsys.exit(2)\n"
    )
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"^cell.py failed with exit code 2: error: another run is writing \(all of it"):
        lanes.run_logged(log, ("cell.py",))
    assert log.read_text() == "error: of yesterday\nerror: another run is writing\nstep 7 of another run\n"
    (tmp_path / "cell.py").write_text("import sys\nprint('no room')\nsys.exit(1)\n")
    with pytest.raises(UserError, match=r"exit code 1: no room \(all"):
        lanes.run_logged(log, ("cell.py",))
