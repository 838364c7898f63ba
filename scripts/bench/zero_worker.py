"""One rank of the ZeRO bench: trains, and leaves what it held in a file.

Started by bench.zero under torch.distributed.run, as a module: this folder on sys.path would hide other modules.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.harness import PeakMemory
from pretrain import checkpoints, zero
from pretrain.batchnorm import GlobalBatchNorm1d
from pretrain.config import PretrainConfig, from_preset
from pretrain.model import Pretrainer, encoder_config, parameter_groups, use_fast_attention
from pretrain.objective import levljepa
from vlm.distributed import rank
from vlm.encoders.levljepa import new_encoder
from vlm.errors import run_command
from vlm.files import write_json
from vlm.run.checkpoints import Checkpoints
from vlm.run.settings import parse, setting

RANKS = 2
BUCKET = 0.2  # of the parameters, as the base preset's; the real one would hold all of this small model
VOCABULARY, TOKENS = 1024, 20


@dataclass(frozen=True)
class WorkerSettings:
    """Flags of one rank."""

    stage: int = setting(help="of ZeRO", choices=range(4))
    width: int = setting(help="of both towers, a multiple of 4", least=4)
    steps: int = setting(help="optimizer steps", least=1)
    out: str = setting(help="folder for STAGE.RANK.json and the checkpoint")


def configuration(width: int, stage: int) -> PretrainConfig:
    """A small pretraining run at a stage of ZeRO."""
    sizes = dict(vision_width=width, text_width=width, vision_heads=4, text_heads=4, projector_width=2 * width)
    return from_preset("tiny", zero=stage, batch_size=16, warmup_steps=2, **sizes)


def size(tensors: Iterable[torch.Tensor], seen: set[int]) -> int:
    """Bytes of the tensors' storages, each counted once over all calls that share `seen`."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    new = {pointer: bytes_ for pointer, bytes_ in storages.items() if pointer not in seen}
    seen.update(new)
    return sum(new.values())


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested dicts and lists."""
    if torch.is_tensor(value):
        return [value]
    found: list[torch.Tensor] = []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            found += tensors_in(part)
    return found


def holdings(engine: Any) -> dict[str, int]:
    """Bytes that this process holds now, by kind. DeepSpeed keeps them in other attributes at each stage."""
    wrapper, seen = engine.optimizer, set()
    inner, weights = getattr(wrapper, "optimizer", wrapper), list(engine.module.parameters())
    partitions = [p.ds_tensor for p in weights if hasattr(p, "ds_tensor")]
    own = [p.grad for p in weights if p.grad is not None]
    reduced = [getattr(wrapper, name, None) for name in ("averaged_gradients", "grad_partitions_flat_buffer")]
    moments = []
    for state in inner.state.values():
        moments += [state[name] for name in ("exp_avg", "exp_avg_sq") if name in state]
    master = [group["params"] for group in inner.param_groups] + getattr(wrapper, "fp32_partitioned_groups_flat", [])
    buckets = [bucket.buffer for bucket in getattr(wrapper, "ipg_buckets", {}).values()]
    return {  # in this order: gradients on their way are views of the bucket
        "weights": size([p.data for p in weights] + partitions, seen),
        "bucket": size(tensors_in(buckets), seen),
        "gradients": size(own + tensors_in(reduced), seen),
        "moments": size(moments, seen),
        "master copy": size(tensors_in(master), seen),
    }


def own_parameters(layer: torch.nn.Module) -> int:
    """How many parameters a layer has, without those of its parts."""
    return sum(parameter.numel() for parameter in layer.parameters(recurse=False))


def train(engine: Any, config: PretrainConfig, steps: int) -> tuple[dict[str, int], list[float]]:
    """Train on random pairs; returns what this process held, by kind, when it held most, and the losses."""
    most: dict[str, int] = {}

    def watch(_: object = None) -> None:
        nonlocal most
        most = max(most, holdings(engine), key=lambda held: sum(held.values()))

    for parameter in engine.module.parameters():
        parameter.register_post_accumulate_grad_hook(watch)
    generator, losses = torch.Generator().manual_seed(rank()), []
    loss_of = partial(
        levljepa, lambda_image=config.lambda_image, lambda_text=config.lambda_text, directions=config.directions, seed=0
    )
    for step in range(steps):
        pixels = torch.randn(config.batch_size // RANKS, 3, config.image_size, config.image_size, generator=generator)
        ids = torch.randint(VOCABULARY, (len(pixels), TOKENS), generator=generator)
        embeddings = engine(pixels, ids, torch.full((len(ids),), TOKENS))
        loss, _ = loss_of(embeddings, step=step)
        engine.backward(loss)
        watch()
        zero.update(engine, config.clip)
        losses.append(loss.item())
    return most, losses


def work(settings: WorkerSettings) -> None:
    """Train, and leave in OUT/STAGE.RANK.json the most this rank held, its losses and its checkpoint's size."""
    torch.set_num_threads(1)
    zero.start_processes()
    config = configuration(settings.width, settings.stage)
    with PeakMemory() as memory:
        encoder = new_encoder(encoder_config(config, VOCABULARY), 0, norm=GlobalBatchNorm1d)
        largest = max(map(own_parameters, encoder.modules()))
        use_fast_attention(encoder, zero.device())
        bucket = int(BUCKET * sum(p.numel() for p in encoder.parameters()))
        with patch.object(zero, "REDUCE_BUCKET_SIZE", bucket):
            groups = parameter_groups(encoder, config.weight_decay)
            engine = zero.start_engine(Pretrainer(encoder), groups, config, RANKS)
        most, losses = train(engine, config, settings.steps)
    out = Path(settings.out)
    run = out / f"run_{settings.stage}"
    recorder = {"failures": 0, "peaks": {}, "warning": None}
    checkpoints.save(engine, Checkpoints(run, {}), settings.steps, recorder)
    files = [path.stat().st_size for path in run.glob(f"checkpoints/step_{settings.steps}/*.safetensors")]
    result = {"held": most, "grown": memory.growth, "losses": losses, "checkpoint": sum(files), "largest": largest}
    write_json(out / f"{settings.stage}.{rank()}.json", result)


if __name__ == "__main__":
    settings = parse(WorkerSettings, prog="bench.zero_worker", about=__doc__, examples="")
    run_command(lambda: work(settings))
