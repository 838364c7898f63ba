"""scripts/slurm_pretrain.sh with stand-ins for SLURM's commands and for python."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/slurm_pretrain.sh"
STAND_INS = {
    # two tasks one after the other; like srun, the highest exit code is its own
    "srun": 'shift; worst=0\nfor i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" || worst=$?; done; exit $worst',
    "scontrol": 'echo "scontrol $*" >> "$LOG"; [ "$1" = requeue ] || printf "node7\\nnode8\\n"',
    "python": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $*" >> "$LOG"; exit $STATUS',
}


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (2, False)])
def test_a_job_that_was_told_to_stop_is_queued_again(tmp_path, status, requeued):
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NTASKS": "2"}
    environment = {**job, "SLURM_SUBMIT_DIR": str(tmp_path), "LOG": str(tmp_path / "log"), "STATUS": str(status)}
    environment["PATH"] = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["bash", SCRIPT, "--data", "a b/*.tar"], env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    lines = ["scontrol show hostnames node[7-8]"]
    lines += [f"{r} {r} 2 node7:20017 -u pretrain/run.py --resume auto --data a b/*.tar" for r in range(2)]
    lines += ["scontrol requeue 40017"] if requeued else []
    assert (tmp_path / "log").read_text().splitlines() == lines
