"""pretrain/run.py on the tiny world: run twice, and resumed at half its steps, equal to the last bit; ZeRO-0 beside."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from gpu.check import Check, records, relative_error

LOSSES = 2e-2  # by which the losses of ZeRO-0 in micro-batches may differ, relative


def measure(check: Check) -> None:
    steps, batch, scenes = (4, 16, 300) if check.smoke else (20, 64, 600)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = ("scripts/make_world.py", root / "world", "--scenes", scenes, "--qa-scenes", scenes // 10)
        check.finish(check.start(*world))
        flags = ("--data", root / "world/captions", "--steps", steps, "--save-every", steps // 2, "--tracker", "none")
        flags += ("--batch-size", batch, "--log-every", 1)
        runs = {"one": ("--zero", 1), "two": ("--zero", 1), "zero0": ("--zero", 0, "--micro-batch-size", batch // 2)}
        check.finish(
            *(check.start("pretrain/run.py", *flags, "--out", root / name, *more) for name, more in runs.items())
        )
        shutil.copytree(root / "one", root / "resumed")
        shutil.rmtree(root / f"resumed/checkpoints/step_{steps}")
        shutil.rmtree(root / "resumed/encoder")
        check.finish(
            check.start("pretrain/run.py", *flags, "--out", root / "resumed", "--zero", 1, "--resume", "required")
        )
        first = _weights(root / "one")
        for name, words in (("two", "run twice, ZeRO-1"), ("resumed", "resumed at half its steps, ZeRO-1")):
            other = _weights(root / name)
            check.note("resume", words, torch.equal(first, other), differs_by=relative_error(other, first))
        losses = [[record["loss"] for record in records(root / name)] for name in ("zero0", "one")]
        gap = max(abs(a / b - 1) for a, b in zip(*losses))
        check.note("resume", "ZeRO-0 in micro-batches", gap <= LOSSES, losses_differ_by=gap, last_loss=losses[1][-1])


def _weights(run: Path) -> torch.Tensor:
    files = [load_file(run / f"encoder/{kind}_encoder.safetensors") for kind in ("vision", "text")]
    return torch.cat([file[key].float().flatten() for file in files for key in sorted(file)])
