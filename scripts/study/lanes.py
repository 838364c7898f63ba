"""This project's commands, run side by side by other scripts: one thread each, their output in a log."""

import os
import subprocess
import sys
from pathlib import Path

from vlm.errors import UserError
from vlm.files import read_json

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {
    "testdev": {"gqa": "testdev", "vqav2": "test-dev2015", "pope": "pope"},
    "val": {"gqa": "val", "vqav2": "val2014", "pope": "pope_val"},
}


def run_logged(log: Path, *command: str) -> None:
    """Run a command of this project on one thread, its output in `log`.

    Raises: UserError if the command failed; the message has the last line of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "w") as file:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=file)
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{' '.join(command[:2])} failed with exit code {done.returncode}: {last} (all of it: {log})")


def train_bridge(world: Path, out: Path, seed: int, *flags: str) -> None:
    """Run bridge/train.py on the world's questions; its log lies beside `out`."""
    data = ("--gqa", str(world / "gqa"), "--vqav2", str(world / "vqav2"))
    place = ("--out", str(out), "--seed", str(seed))
    run_logged(out.with_suffix(".train.log"), "bridge/train.py", *data, *place, *flags)


def score_bridge(world: Path, out: Path, scores: Path, split: str, limit_images: int) -> dict[str, float]:
    """Run bridge/evaluate.py on up to `limit_images` images of each benchmark; prints and returns its summary.

    The summary is {gqa, vqav2, pope, mean}, percentages.
    """
    names = SPLITS[split]
    run_logged(
        out.with_suffix(".eval.log"),
        "bridge/evaluate.py",
        str(out / "vlm"),
        *("--gqa", str(world / "gqa"), "--gqa-split", names["gqa"]),
        *("--vqav2", str(world / "vqav2"), "--vqav2-split", names["vqav2"]),
        *("--pope", str(world / names["pope"])),
        *("--limit-images", str(limit_images), "--out", str(scores)),
    )
    summary = read_json(scores / "results.json")["summary"]
    print(f"{out.name}: " + ", ".join(f"{name} {value:.1f}" for name, value in summary.items()), flush=True)
    return summary
