"""The pretraining run: set-up, loop, checkpoints, export."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from pretrain import checkpoints
from pretrain.batchnorm import GlobalBatchNorm1d, RunningStatistics
from pretrain.config import PretrainConfig
from pretrain.contrastive import Logits
from pretrain.data.augment import augmentation
from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from pretrain.data.tokenizer import load_tokenizer
from pretrain.health import health
from pretrain.model import Pretrainer, encoder_config, parameter_groups, use_fast_attention
from pretrain.objective import objective
from pretrain.probes.watch import Watch
from pretrain.recorder import Recorder
from pretrain.zero import device, gathered, start_engine, start_processes, update
from vlm.distributed import AnyRank, barrier, is_main, rank, world_size
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.encoders.tokens import CaptionTokenizer
from vlm.files import write_json
from vlm.run.folder import locked
from vlm.run.schedule import SCHEDULES
from vlm.run.settings import trajectory
from vlm.run.stopping import leave, termination


def build_encoder(config: PretrainConfig, tokenizer: CaptionTokenizer) -> Encoder:
    """Random towers and heads keyed by the seed, with BatchNorm over all ranks."""
    training = {**trajectory(config), "tokenizer": config.tokenizer}
    sizes = encoder_config(config, tokenizer.vocab_size, mean=CLIP_MEAN, std=CLIP_STD, training=training)
    return new_encoder(sizes, config.seed, tokenizer, GlobalBatchNorm1d)


def compute_dtype(config: PretrainConfig, target: torch.device) -> torch.dtype:
    """bf16 autocast on GPUs, fp32 on CPUs, unless --dtype says otherwise."""
    if config.dtype == "auto":
        return torch.bfloat16 if target.type == "cuda" else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[config.dtype]


def train(config: PretrainConfig) -> None:
    """Run or continue `config.out`; on return RUN/encoder holds the trained encoder."""
    start_processes()
    with locked(Path(config.out)):
        _train(config)


def _train(config: PretrainConfig) -> None:
    """Set up, loop and export, in a folder that is this run's own."""
    run, target = Path(config.out), device()
    data = open_captions(config.data, config.image_column, config.caption_column)
    encoder = build_encoder(config, load_tokenizer(config.tokenizer, data)).to(target)
    use_fast_attention(encoder, target)
    logits = Logits(config.objective).to(target) if config.objective in ("clip", "siglip") else None
    model = Pretrainer(encoder, config.micro_batch_size // world_size(), compute_dtype(config, target), logits)
    engine = start_engine(model, parameter_groups(model, config.weight_decay), config, world_size())
    kept = checkpoints.open_checkpoints(run, config, data.fingerprint)
    start = checkpoints.resume(engine, kept, config)
    if is_main():
        write_json(run / "config.json", asdict(config))
    transform = augmentation(config, CLIP_MEAN, CLIP_STD)
    batches = CaptionBatches(
        data,
        transform,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start,
        stop_step=config.steps,
        rank=rank(),
        world_size=world_size(),
        workers=config.workers,
        fit=math.ceil(config.image_size * transform.enlarges),
        quarantine=run / "quarantine.jsonl",
        bad_ratio=config.bad_ratio,
    )
    recorder, watch = Recorder(run, config, start), Watch(encoder, config)

    def save(step: int) -> None:
        checkpoints.save(engine, kept, step)

    with termination() as terminated:
        loop(engine, batches, recorder, save, watch, config, start, terminated)
    export(engine, run)


def loop(
    engine,
    batches,
    recorder: Recorder,
    save: Callable[[int], None],
    watch: Watch,
    config: PretrainConfig,
    start: int,
    terminated: list,
) -> None:
    """Steps `start` to `config.steps`: the learning rate, directions and data are functions of the step alone.

    `terminated`: no longer empty once this rank was told to stop.
    """
    target, tokenizer = device(), engine.module.encoder.tokenizer
    schedule, compute = SCHEDULES[config.schedule], objective(config)
    statistics, told_to_stop = RunningStatistics(engine.module), AnyRank(target)
    for step, batch in enumerate(batches, start=start):
        lr = schedule(step, config.steps, config.warmup_steps, config.lr, config.min_lr)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        ids, lengths = tokenizer(batch["captions"])
        pixels = to_device(batch["images"], target)
        embeddings = engine(pixels, to_device(ids, target), lengths)
        loss, metrics = compute(embeddings, step=step)
        engine.backward(loss * (1 + 0 * loss.detach()))  # NaN in every gradient where the loss is not finite
        metrics["gradient_norm"] = update(engine, config.clip)
        statistics.settle(metrics["gradient_norm"].isfinite())
        if recorder.reads(step):
            metrics |= health(embeddings)
        recorder.add(step, lr, metrics, watch(engine, step + 1), batch["ids"])
        stop = told_to_stop(bool(terminated)) and step + 1 < config.steps
        if stop or (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            recorder.flush()  # before: a step that a checkpoint holds is not recorded again
            save(step + 1)
        if stop:
            leave(step + 1, recorder.bar)


def to_device(tensors: torch.Tensor | list[torch.Tensor], target: torch.device) -> torch.Tensor | list[torch.Tensor]:
    """A tensor, or each of a list of crops, on its way to the device."""
    if isinstance(tensors, torch.Tensor):
        return tensors.to(target, non_blocking=True)
    return [part.to(target, non_blocking=True) for part in tensors]


def export(engine, run: Path) -> None:
    """Write RUN/encoder from the engine's weights, gathered where ZeRO-3 spread them; collective."""
    with gathered(list(engine.module.parameters())):
        if is_main():
            encoder, logits = engine.module.encoder, engine.module.logits
            learned = logits.values() if logits else {}
            encoder.with_config(**learned).save(run / "encoder")
            print(f"encoder written to {run / 'encoder'}", flush=True)
    barrier()
