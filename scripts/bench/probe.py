"""Patch tokens for the attentive probe, kept against encoded anew. See scripts/bench_probe.py."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.harness import Goals, header, row, seconds
from bench.noise import noise_jpegs
from bench.settings import ProbeBench
from pretrain.probes.features import encode_in, shuffled
from pretrain.probes.pixels import Images
from pretrain.probes.tokens import EPOCHS, PatchTokens
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.images import load_image
from vlm.llms.precision import chosen_dtype

BATCH, NEEDED, ERROR = 16, 10, 0.02
KEPT = EPOCHS[True]


def vit_tiny() -> Encoder:
    """A ViT of ViT-Ti/16's sizes with random weights; what captions need is small."""
    sizes = {"vision_width": 192, "vision_layers": 12, "vision_heads": 3}
    captions = {"text_width": 32, "text_layers": 1, "text_heads": 1}
    return new_encoder(EncoderConfig(**sizes, **captions), seed=0).eval()


@torch.no_grad()
def every_pass_anew(encoder: Encoder, paths: Sequence[Path]) -> torch.Tensor:
    """Passes over all images, each decoded and encoded again -> the last one's tokens, float32[images, N, width]."""
    tokens: list[torch.Tensor] = []
    for _ in range(1 + KEPT):  # for mean and deviation, and each epoch
        tokens = []
        for start in range(0, len(paths), BATCH):
            pixels = torch.stack([encoder.transform(load_image(path)) for path in paths[start : start + BATCH]])
            tokens.append(encoder.patch_tokens(pixels))  # [B, N, width]
    return torch.cat(tokens)


def kept(encoder: Encoder, paths: Sequence[Path], dtype: torch.dtype) -> torch.Tensor:
    """The probe's way: every image encoded once, then read in each epoch -> float32[images, N, width]."""
    images = Images(len(paths), lambda number: load_image(paths[number]))
    tokens = PatchTokens(encode_in(encoder, dtype), images)
    steps = KEPT * (len(paths) // BATCH)
    for _ in tokens.batches(shuffled(len(paths), BATCH, steps, seed=0)):
        pass
    return next(iter(tokens.batches([range(len(paths))])))


def run(settings: ProbeBench) -> Goals:
    """Measure once each, print the table, and return the verdicts."""
    torch.set_num_threads(1)
    goals, found = Goals(), {}
    dtype = chosen_dtype(settings.dtype, torch.device("cpu"))
    encoder = vit_tiny()
    with tempfile.TemporaryDirectory() as folder:
        paths = noise_jpegs(Path(folder), settings.images)
        plain = seconds(lambda: found.update(plain=every_pass_anew(encoder, paths)))
        ours = seconds(lambda: found.update(ours=kept(encoder, paths, dtype)))
    error = ((found["ours"] - found["plain"]).norm() / found["plain"].norm()).item()
    images = f"{settings.images} images, {KEPT} epochs, {str(dtype).removeprefix('torch.')}"
    print(f"{images}, torch {torch.__version__}\n")
    header("way", "images encoded", "seconds", "ratio", "error of the tokens")
    row("every pass anew, float32", (1 + KEPT) * settings.images, f"{plain:.1f}", "1", "0")
    row("kept", settings.images, f"{ours:.1f}", goals.at_least(plain / ours, NEEDED), goals.at_most(error, ERROR))
    return goals
