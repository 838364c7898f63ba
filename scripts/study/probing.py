"""Several probes of one encoder, which is loaded once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pretrain import probe
from pretrain.probes import tasks
from study.probes import Probe
from vlm.encoders.levljepa import load_encoder

# Numbers that say how large a set is or what a probe chose, not how good an encoder is.
NOT_SCORES = ("ridge", "weight_decay", "classes", "names", "labels", "images", "train_images", "pool", "embed_dim")


def scores(probe_name: str, numbers: Mapping[str, object]) -> dict[str, float]:
    """The single numbers that say how good an encoder is, as `probe: name`."""
    found = {}
    for name, value in numbers.items():
        if isinstance(value, (int, float)) and name not in NOT_SCORES:
            found[f"{probe_name}: {name}"] = value
    return found


def measure(encoder_folder: Path, probes: Sequence[Probe]) -> dict[str, float]:
    """Run the probes and print a line for each; returns all scores."""
    torch.set_num_threads(1)
    encoder = load_encoder(encoder_folder).to("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, float] = {}
    for each in probes:
        settings = probe.parse([str(encoder_folder), "--task", each.task, "--data", each.data])
        numbers = tasks.measure(encoder, settings)
        print(tasks.table_line(each.name, numbers), flush=True)
        found |= scores(each.name, numbers)
    return found
