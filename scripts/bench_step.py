"""The whole LeVLJEPA step against a plain one, the text tower by length groups, and where a ViT-B's step goes.

Times are CPU seconds of one thread, of pairs measured in turn; a ratio is the median of the pairs' ratios.

step   a model of some 6.5 M parameters, batch 128: forward, loss, backward, clipping, AdamW. The plain step differs in
       three things: SIGReg stores its (B, P, 17) harmonics, captions are padded to 77 tokens, AdamW is not fused.
text   forward and backward of its text tower over 256 captions of 24 tokens on average: in groups, and padded to 77.
shares floating-point operations of a ViT-B's step (forward and backward) by part: matrix products as torch's
       FlopCounterMode counts them, on tensors without data; SIGReg's by hand, its elementwise ones included.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from bench_sigreg import plain_sigreg
from tables import row, verdict
from torch.utils.flop_counter import FlopCounterMode

from pretrain.model import Pretrainer, parameter_groups, text_features, use_fast_attention
from pretrain.objective import levljepa
from pretrain.sigreg import random_directions
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.encoders.tokens import CONTEXT
from vlm.errors import UserError, run_command

STEP, STEP_STRETCH, TEXT = 1.5, 1.8, 2.2
SMALL = EncoderConfig(
    image_size=96, patch_size=16, vision_width=192, vision_layers=6, vision_heads=3, text_width=192, text_layers=6,
    text_heads=3, vocab_size=1024, positions=CONTEXT, embed_dim=128, projector_width=512, projector_depth=2,
)  # fmt: skip
WEIGHTS = dict(lambda_image=0.02, lambda_text=0.02)
DIRECTIONS = 4096
EXAMPLES = """examples:
  python scripts/bench_step.py
  python scripts/bench_step.py --parts step --pairs 15
"""


def captions(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids int64[count, 77] and lengths int64[count]: log-normal, 24 tokens on average, the longest cut to 77."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (20 * torch.exp(0.6 * torch.randn(count, generator=generator))).round().long().clamp(3, CONTEXT)
    return torch.randint(0, SMALL.vocab_size, (count, CONTEXT), generator=generator), lengths


def cpu_seconds(function: Callable, *arguments) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def paired(plain: Callable, ours: Callable, pairs: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median ratio plain / ours, after one warm-up call of both."""
    plain(), ours()
    times = [(cpu_seconds(plain), cpu_seconds(ours)) for _ in range(pairs)]
    slow, fast = (statistics.median(column) for column in zip(*times))
    return slow, fast, statistics.median(a / b for a, b in times)


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
        embeddings = self.model(self.pixels, self.ids[:, : int(self.lengths.max())], self.lengths)
        return levljepa(embeddings, **WEIGHTS, directions=DIRECTIONS, seed=0, step=self.number)[0]


class PlainStep(Step):
    def objective(self) -> torch.Tensor:
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


def bench_step(pairs: int, batch: int = 128) -> bool:
    encoder = new_encoder(SMALL, seed=0)
    plain, ours = PlainStep(copy.deepcopy(encoder), batch, fused=False), Step(encoder, batch, fused=True)
    plain_s, ours_s, ratio = paired(plain, ours, pairs)
    difference = abs(plain.loss.item() / ours.loss.item() - 1)
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    passed = ratio >= STEP and difference < 1e-3
    row("whole step", "parameters", "batch", "plain s", "ours s", "ratio", "needed (stretch)", "losses differ by")
    row(*["---"] * 8)
    row("LeVLJEPA", f"{millions:.1f} M", batch, f"{plain_s:.2f}", f"{ours_s:.2f}", f"{ratio:.2f}x {verdict(passed)}",
        f"{STEP}x ({STEP_STRETCH}x)", f"{difference:.0e} after {ours.number} steps")  # fmt: skip
    return passed


def bench_text(pairs: int, batch: int = 256) -> bool:
    encoder = new_encoder(SMALL, seed=0)
    use_fast_attention(encoder, torch.device("cpu"))
    ids, lengths = captions(batch)

    def run(features: Callable) -> None:
        features(ids, lengths).square().mean().backward()

    padded, grouped = partial(run, encoder.text.features), partial(run, partial(text_features, encoder.text))
    plain_s, ours_s, ratio = paired(padded, grouped, pairs)
    row("text tower", "mean tokens", "longest", "batch", "padded captions/s", "grouped captions/s", "ratio", "needed")
    row(*["---"] * 8)
    row("forward + backward", f"{lengths.float().mean():.1f}", int(lengths.max()), batch, f"{batch / plain_s:.0f}",
        f"{batch / ours_s:.0f}", f"{ratio:.2f}x {verdict(ratio >= TEXT)}", f"{TEXT}x")  # fmt: skip
    return ratio >= TEXT


def flops(function: Callable, *arguments) -> int:
    """Floating-point operations of the matrix products in a forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments).sum().backward()
    return counter.get_total_flops()


def shares(batch: int = 256) -> bool:
    """A ViT-B's step as it is computed here, and as it would be without its two shortcuts."""
    config = EncoderConfig()
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
    Pretrainer(encoder)  # from here on the last block works for CLS alone
    by_row = 4 * config.embed_dim + 180  # two matrix products; 35 products back and forth and ~40 elementwise steps
    ours = {
        "image tower": flops(encoder.image.features, pixels),
        "text tower, in length groups": flops(text_features, SimpleNamespace(features=read), ids, lengths),
        "heads": 2 * (flops(encoder.image.pre_proj, features) + flops(encoder.image.projector, z)),
        "SIGReg, both modalities": 2 * batch * DIRECTIONS * by_row,
    }
    total = sum(ours.values())
    row(f"ViT-B, {batch} pairs, {lengths.float().mean():.0f} tokens", "GFLOP a pair", "of the step")
    row(*["---"] * 3)
    for name, count in ours.items():
        row(name, f"{count / batch / 1e9:.3f}", f"{100 * count / total:.2f} %")
    row("together", f"{total / batch / 1e9:.3f}", "100 %")
    for name, count in plain.items():
        row(f"instead: {name}", f"{count / batch / 1e9:.3f}", f"{100 * count / total:.1f} %")
    return True


PARTS = {"step": bench_step, "text": bench_text, "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="(default: all)")
    parser.add_argument("--pairs", type=int, default=7, help="timed pairs (default 7)")
    args = parser.parse_args()
    if args.pairs < 1:
        raise UserError(f"--pairs {args.pairs}: give at least 1")
    torch.set_num_threads(1)
    passed = True
    for name in args.parts:
        passed &= shares() if name == "shares" else PARTS[name](args.pairs)
        print()
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
