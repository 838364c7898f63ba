"""A ViT-B's step in bf16 on data that lie on the device: images a second, MFU, memory, SIGReg's share, idle time."""

import time

import torch
from bench.step import captions

from gpu.check import Check
from pretrain import objective
from pretrain.compiling import compile_towers, compiles_fast, several_shapes
from pretrain.config import from_preset
from pretrain.model import Pretrainer, encoder_config, parameter_groups, use_fast_attention
from pretrain.sigreg import random_directions, sigreg
from vlm.encoders.levljepa import new_encoder

PEAK = 989e12  # operations a second: dense bf16 of an H100 or H200 SXM
PAIR_FLOPS = 116.9e9  # of a pair at 23 tokens, forward and backward: scripts/bench_step.py --parts shares
VOCABULARY = 50257
SMOKE = dict(
    vision_width=48, vision_layers=2, vision_heads=2, text_width=48, text_layers=2, text_heads=2, projector_width=64,
    image_size=64, directions=64,
)  # fmt: skip


class Step:
    """One optimizer step without DeepSpeed, as the loop makes it."""

    def __init__(self, check: Check, batch: int, micro: int = 0, compiled: bool = False):
        """compiled: as `pretrain/run.py --compile`."""
        config = from_preset("base", batch_size=batch, **(SMOKE if check.smoke else {}))
        encoder = new_encoder(encoder_config(config, VOCABULARY), 0).to(check.device)
        use_fast_attention(encoder, check.device)
        self.model = Pretrainer(encoder, micro, torch.bfloat16).train()
        if compiled:
            compile_towers(encoder, several_shapes(batch, micro))
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.01), lr=1e-5, fused=True)
        self.objective, self.number, self.device = objective.objective(config), 0, check.device
        ids, self.lengths = captions(batch)
        self.ids = ids[:, : int(self.lengths.max())].to(check.device)
        generator = torch.Generator(check.device).manual_seed(0)
        side = config.image_size
        self.pixels = torch.randn(batch, 3, side, side, generator=generator, device=check.device)

    def __call__(self) -> None:
        loss, _ = self.objective(self.model(self.pixels, self.ids, self.lengths), step=self.number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.number += 1


def measure(check: Check) -> None:
    sizes = (16,) if check.smoke else (256, 512, 1024)
    shares = {batch: _sigreg_seconds(check, batch) for batch in sizes}
    for batch in sizes:
        took = _measure(check, f"batch {batch}", batch)
        if took:
            share = 2 * shares[batch] / took  # of two modalities
            check.note("pretrain", f"SIGReg of {batch}", ms=1e3 * shares[batch], share_of_step=share)
    middle = sizes[len(sizes) // 2]
    if compiles_fast(check.device):
        _measure(check, f"batch {middle}, compiled", middle, compiled=True)
        ragged = 2 * middle // 5  # of three pieces the last is shorter: do graphs fit when they are computed again?
        _measure(check, f"batch {middle} in micro-batches of {ragged}, compiled", middle, ragged, compiled=True)
    else:
        check.note("pretrain", f"batch {middle}, compiled", skipped="for GPUs with Triton and a C compiler")
    batch, micro = (32, 8) if check.smoke else (4096, 512)
    _measure(check, f"batch {batch} in micro-batches of {micro}", batch, micro)


def _sigreg_seconds(check: Check, batch: int) -> float:
    """Seconds of SIGReg and its gradient, one modality, along directions that are there already."""
    z = torch.randn(batch, 256, device=check.device, requires_grad=True)
    along = random_directions(256, 64 if check.smoke else 4096, 0, 0, "image", check.device)
    return check.pipelined(lambda: sigreg(z, along), 10)


def _measure(check: Check, name: str, batch: int, micro: int = 0, compiled: bool = False) -> float | None:
    """One row; seconds of a step, or None if it does not run here."""
    try:
        start = time.perf_counter()
        step = Step(check, batch, micro, compiled)
        memory = check.peak_gib(step)
        first = time.perf_counter() - start
        took = check.pipelined(step, 2 if micro or check.smoke else 6, warm=1)
        values = {"images_per_s": batch / took, "step_ms": 1e3 * took, "peak_gib": memory, "first_step_s": first}
        if not check.smoke:
            values["mfu"] = PAIR_FLOPS * batch / took / PEAK
        check.note("pretrain", name, **values, **check.idle(step))
        return took
    except torch.OutOfMemoryError:
        check.note("pretrain", name, out_of_memory=True)
    except Exception as problem:
        if not compiled:
            raise
        check.note("pretrain", name, failed=" ".join(f"{type(problem).__name__}: {problem}".split())[:300])
    finally:
        check.free()
    return None
