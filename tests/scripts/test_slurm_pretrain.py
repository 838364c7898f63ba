"""scripts/slurm_pretrain.sh with stand-ins for SLURM's commands and for python."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/slurm_pretrain.sh"
STAND_INS = {
    # two tasks one after the other; like srun, the highest exit code is its own
    "srun": 'shift; worst=0\nfor i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" || worst=$?; done; exit $worst',
    "scontrol": 'echo "scontrol $*" >> "$LOG"; [ "$1" = requeue ] || printf "node7\\nnode8\\n"',
    "python": (
        'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $*" >> "$LOG"\n'
        '[ "$DONE" = no ] || { mkdir -p "$DONE"; touch "$DONE/done.json"; }; exit $STATUS'
    ),
}


def job(folder: Path, status: int, done: str, *flags: str) -> tuple[int, str, list[str]]:
    """Run the script, its python ending with `status` and leaving done.json in `done` -> exit code, stderr, log."""
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NTASKS": "2"}
    environment = {**slurm, "SLURM_SUBMIT_DIR": str(folder), "LOG": str(folder / "log"), "STATUS": str(status)}
    environment |= {"PATH": f"{folder}:/usr/bin:/bin", "DONE": done}
    finished = subprocess.run(["bash", SCRIPT, *flags], env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stderr, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (2, False)])
def test_a_job_that_was_told_to_stop_is_queued_again(tmp_path, status, requeued):
    code, errors, log = job(tmp_path, status, "runs/pretrain", "--data", "a b/*.tar")
    assert (code, errors) == (status, "")
    lines = ["scontrol show hostnames node[7-8]"]
    lines += [f"{r} {r} 2 node7:20017 -u pretrain/run.py --resume auto --data a b/*.tar" for r in range(2)]
    lines += ["scontrol requeue 40017"] if requeued else []
    assert log == lines


@pytest.mark.parametrize("flags", [("--out", "my runs/a"), ("--out=my runs/a",)])
def test_exit_code_0_without_the_record_of_the_end_is_no_success(tmp_path, flags):
    assert job(tmp_path, 0, "my runs/a", *flags)[0] == 0
    (tmp_path / "my runs/a/done.json").unlink()
    code, errors, _ = job(tmp_path, 0, "no", *flags)
    assert code == 1
    assert errors.startswith("error: there is no my runs/a/done.json: submitted again")
