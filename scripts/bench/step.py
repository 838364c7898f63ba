"""The LeVLJEPA step against a plain one, and where a step's operations go. See scripts/bench_step.py."""

import copy
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.harness import Goals, compare, header, row
from bench.host import bench_host
from bench.settings import StepBench
from bench.sigreg import DIRECTIONS, plain_sigreg
from pretrain.model import Pretrainer, parameter_groups, text_features, use_fast_attention
from pretrain.objective import levljepa
from pretrain.sigreg import random_directions
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.encoders.tokens import CONTEXT

STEP, STEP_STRETCH, TEXT = 1.5, 1.8, 2.2  # ratios needed, and hoped for
LOSSES = 1e-3  # by which the two losses may differ, relative
SMALL = EncoderConfig(
    image_size=96, patch_size=16, vision_width=192, vision_layers=6, vision_heads=3, text_width=192, text_layers=6,
    text_heads=3, vocab_size=1024, positions=CONTEXT, embed_dim=128, projector_width=512, projector_depth=2,
)  # fmt: skip
WEIGHTS = dict(lambda_image=0.02, lambda_text=0.02)


def captions(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids int64[count, 77] and lengths int64[count]: log-normal, 24 tokens on average, the longest cut to 77."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (20 * torch.exp(0.6 * torch.randn(count, generator=generator))).round().long().clamp(3, CONTEXT)
    return torch.randint(0, SMALL.vocab_size, (count, CONTEXT), generator=generator), lengths


class Step:
    """One optimizer step on a fixed batch; `loss` is the last one's."""

    def __init__(self, encoder: Encoder, batch: int, fused: bool):
        use_fast_attention(encoder, torch.device("cpu"))
        self.model = Pretrainer(encoder)
        # On CPUs `foreach` is off by default, so this is one loop over the parameters, several passes over each.
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.01), lr=2e-4, fused=fused)
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(batch, 3, SMALL.image_size, SMALL.image_size, generator=generator)
        self.ids, self.lengths = captions(batch)
        self.number = 0

    def __call__(self) -> None:
        self.loss = self.objective()
        self.optimizer.zero_grad()
        self.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.number += 1

    def objective(self) -> torch.Tensor:
        """The loss: captions cut to the longest, SIGReg as pretraining computes it."""
        embeddings = self.model(self.pixels, self.ids[:, : int(self.lengths.max())], self.lengths)
        return levljepa(embeddings, **WEIGHTS, directions=DIRECTIONS, seed=0, step=self.number)[0]


class PlainStep(Step):
    """The step without this project's shortcuts."""

    def objective(self) -> torch.Tensor:
        """The loss: captions padded to 77, SIGReg as it is defined."""
        encoder = self.model.encoder
        z_v = encoder.image.pre_proj(encoder.image.features(self.pixels))
        z_t = encoder.text.pre_proj(encoder.text.features(self.ids, self.lengths))
        predict_text = (encoder.predict_text(z_v) - z_t.detach()).square().mean()
        predict_image = (encoder.predict_image(z_t) - z_v.detach()).square().mean()
        directions = partial(random_directions, SMALL.embed_dim, DIRECTIONS, 0, self.number)
        image, text = plain_sigreg(z_v, directions("image")), plain_sigreg(z_t, directions("text"))
        weigh_image, weigh_text = WEIGHTS.values()
        cross = 0.5 * (predict_text + predict_image)
        return (1 - weigh_image - weigh_text) * cross + weigh_image * image + weigh_text * text


def bench_step(pairs: int, batch: int, goals: Goals) -> None:
    """Print the whole optimizer step, plain and ours."""
    encoder = new_encoder(SMALL, seed=0)
    plain, ours = PlainStep(copy.deepcopy(encoder), batch, fused=False), Step(encoder, batch, fused=True)
    times = compare(plain, ours, pairs, time.process_time)
    difference = abs(plain.loss.item() / ours.loss.item() - 1)
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    header("whole step", "parameters", "batch", "plain s", "ours s", "ratio", "hoped for", "losses differ by")
    row(
        "LeVLJEPA",
        f"{millions:.1f} M",
        batch,
        f"{times.reference:.2f}",
        f"{times.ours:.2f}",
        goals.at_least(times.ratio, STEP),
        f"{STEP_STRETCH}x",
        f"{goals.at_most(difference, LOSSES)} after {ours.number} steps",
    )


def bench_text(pairs: int, batch: int, goals: Goals) -> None:
    """Print the text tower's forward and backward, padded and in length groups."""
    encoder = new_encoder(SMALL, seed=0)
    use_fast_attention(encoder, torch.device("cpu"))
    ids, lengths = captions(batch)

    def run_tower(features: Callable) -> None:
        features(ids, lengths).square().mean().backward()

    padded = partial(run_tower, encoder.text.features)
    grouped = partial(run_tower, partial(text_features, encoder.text))
    times = compare(padded, grouped, pairs, time.process_time)
    header("text tower", "mean tokens", "longest", "batch", "padded captions/s", "grouped captions/s", "ratio")
    row(
        "forward + backward",
        f"{lengths.float().mean():.1f}",
        int(lengths.max()),
        batch,
        f"{batch / times.reference:.0f}",
        f"{batch / times.ours:.0f}",
        goals.at_least(times.ratio, TEXT),
    )


def flops(function: Callable, *arguments) -> int:
    """Floating-point operations of the matrix products in a forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments).sum().backward()
    return counter.get_total_flops()


def shares() -> None:
    """Print a ViT-B's step by part as it is computed here, and what it would be without its two shortcuts."""
    config, batch = EncoderConfig(), 256
    with torch.device("meta"):
        encoder = Encoder(config)
        pixels = torch.zeros(batch, 3, config.image_size, config.image_size)
        ids = torch.zeros(batch, CONTEXT, dtype=torch.long)
        features, z = torch.zeros(batch, config.vision_width), torch.zeros(batch, config.embed_dim, requires_grad=True)

    def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`TextTower.features` with the causal mask given: transformers looks at values to see if it needs one."""
        causal = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool, device="meta").tril()
        return encoder.text.encoder(input_ids=ids, attention_mask=causal).last_hidden_state[:, -1]

    lengths = captions(batch)[1]
    plain = {
        "image tower, all tokens in the last block": flops(encoder.image.features, pixels),
        "text tower, padded to 77": flops(read, ids, lengths),
    }
    # `text_features` calls nothing of a tower but `features`, which has to be `read` here.
    tower = SimpleNamespace(features=read)
    Pretrainer(encoder)  # from here on the last block works for CLS alone
    by_row = 4 * config.embed_dim + 180  # two matrix products; 35 products back and forth and ~40 elementwise steps
    ours = {
        "image tower": flops(encoder.image.features, pixels),
        "text tower, in length groups": flops(text_features, tower, ids, lengths),
        "heads": 2 * (flops(encoder.image.pre_proj, features) + flops(encoder.image.projector, z)),
        "SIGReg, both modalities": 2 * batch * DIRECTIONS * by_row,
    }
    total = sum(ours.values())
    header(f"ViT-B, {batch} pairs, {lengths.float().mean():.0f} tokens", "GFLOP a pair", "of the step")
    for name, count in ours.items():
        row(name, f"{count / batch / 1e9:.3f}", f"{100 * count / total:.2f} %")
    row("together", f"{total / batch / 1e9:.3f}", "100 %")
    for name, count in plain.items():
        row(f"instead: {name}", f"{count / batch / 1e9:.3f}", f"{100 * count / total:.1f} %")


def run(settings: StepBench) -> Goals:
    """Measure the parts that the settings name, print their tables, and return the verdicts."""
    torch.set_num_threads(1)
    goals = Goals()
    for name in settings.parts:
        if name == "step":
            bench_step(settings.pairs, settings.batch, goals)
        elif name == "text":
            bench_text(settings.pairs, 2 * settings.batch, goals)
        elif name == "host":
            bench_host(4 * settings.batch, 2 * settings.pairs + 1, goals)
        else:
            shares()
        print()
    return goals
