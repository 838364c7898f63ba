"""Several probes of one encoder, which is loaded once."""

from collections.abc import Mapping
from pathlib import Path

import torch

from pretrain import probe
from pretrain.probes import tasks
from vlm.encoders.levljepa import load_encoder

# Numbers that say how large a set is or what a probe chose, not how good an encoder is.
NOT_SCORES = ("ridge", "weight_decay", "classes", "names", "labels", "images", "train_images", "pool", "embed_dim")


def scores(task: str, numbers: Mapping[str, object]) -> dict[str, float]:
    """The single numbers that say how good an encoder is, as `task: name`."""
    found = {}
    for name, value in numbers.items():
        if isinstance(value, (int, float)) and name not in NOT_SCORES:
            found[f"{task}: {name}"] = value
    return found


def measure(encoder_folder: Path, data: Mapping[str, str]) -> dict[str, float]:
    """Run every probe in `data` (task -> what it is measured on) and print a line for each; returns all scores."""
    torch.set_num_threads(1)
    encoder = load_encoder(encoder_folder).to("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, float] = {}
    for task, place in data.items():
        settings = probe.parse([str(encoder_folder), "--task", task, "--data", place])
        numbers = tasks.measure(encoder, settings)
        print(tasks.table_line(task, numbers), flush=True)
        found |= scores(task, numbers)
    return found
