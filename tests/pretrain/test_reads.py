"""No step waits for its device, but those whose metrics are read."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = [
    "--image-size", "16", "--patch-size", "8", "--vision-width", "16", "--vision-layers", "1", "--vision-heads", "2",
    "--text-width", "16", "--text-layers", "1", "--text-heads", "2", "--embed-dim", "8", "--projector-width", "16",
    "--projector-depth", "2", "--directions", "32", "--batch-size", "8", "--tokenizer", "train:300",
    "--warmup-steps", "2",
]  # fmt: skip


def test_the_device_is_read_when_metrics_are(captions, tmp_path):
    """A read waits for the device: one every --log-every steps, of all metrics together, and none between."""
    flags = ["--data", captions, *SMALL, "--log-every", "3", "--steps", "7", "--workers", "1", "--tracker", "none"]
    command = [sys.executable, "tests/pretrain/reads.py", tmp_path, "01", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    counted = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    # Of a step: what was read since the step before was recorded. Steps 2 and 5 are read, which 3 and 6 then show.
    steps = {stage: reads[1:] for found in counted for stage, reads in found.items()}  # without the set-up
    assert steps == {"0": [0, 0, 1, 0, 0, 1], "1": [0, 0, 1, 0, 0, 1]}
