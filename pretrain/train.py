"""The pretraining run: set-up, loop, checkpoints, export."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pretrain import checkpoints
from pretrain.augment import augmentation
from pretrain.batchnorm import GlobalBatchNorm1d
from pretrain.captions import CaptionBatches, open_captions
from pretrain.config import PretrainConfig
from pretrain.contrastive import Logits
from pretrain.health import SETTLED, collapse, health
from pretrain.model import Pretrainer, parameter_groups, use_fast_attention
from pretrain.objective import objective
from pretrain.schedule import SCHEDULES
from pretrain.watch import Watch
from pretrain.zero import device, gathered, start_engine, start_processes
from vlm.distributed import all_sum, barrier, is_main, rank, world_size
from vlm.encoder import Encoder, new_encoder
from vlm.encoder_config import EncoderConfig
from vlm.errors import UserError
from vlm.images import CLIP_MEAN, CLIP_STD
from vlm.logs import append_jsonl, progress, write_json
from vlm.tokens import CaptionTokenizer

TOKENIZER_SAMPLE = 20_000


def load_tokenizer(name: str, data) -> CaptionTokenizer:
    """`gpt2`, a tokenizer.json, or `train:SIZE`: a BPE learnt from the first captions of the data, in stored order."""
    kind, _, size = name.partition(":")
    if name == "gpt2":
        return CaptionTokenizer.gpt2()
    if kind == "train" and size.isdigit():
        return CaptionTokenizer.train(data.first_captions(TOKENIZER_SAMPLE), int(size))
    if Path(name).is_file():
        return CaptionTokenizer.load(name)
    raise UserError(f"--tokenizer {name}: give gpt2, train:SIZE or the path of a tokenizer.json")


def build_encoder(config: PretrainConfig, tokenizer: CaptionTokenizer) -> Encoder:
    """Random towers and heads keyed by the seed, with BatchNorm over all ranks."""
    sizes = {name: getattr(config, name) for name in EncoderConfig.__dataclass_fields__ if hasattr(config, name)}
    training = {name: value for name, value in asdict(config).items() if name not in checkpoints.FREE}
    encoder_config = EncoderConfig(
        **sizes, vocab_size=tokenizer.vocab_size, mean=CLIP_MEAN, std=CLIP_STD, training=training
    )
    return new_encoder(encoder_config, config.seed, tokenizer, GlobalBatchNorm1d)


def compute_dtype(config: PretrainConfig, target: torch.device) -> torch.dtype:
    """bf16 autocast on GPUs, fp32 on CPUs, unless --dtype says otherwise."""
    if config.dtype == "auto":
        return torch.bfloat16 if target.type == "cuda" else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[config.dtype]


def resume_step(engine, run: Path, config: PretrainConfig, settings: dict) -> int:
    """Load the newest whole checkpoint as --resume asks, and return the step to go on with."""
    step = checkpoints.newest(run, settings, world_size())
    if config.resume == "never" and step is not None:
        raise UserError(f"{run} holds a run at step {step}: give another --out, or --resume auto to continue it")
    if config.resume == "required" and step is None:
        raise UserError(f"--resume required, but {run} has no checkpoint: use --resume auto to start one")
    if step is None:
        return 0
    engine.load_checkpoint(str(run / "checkpoints"), tag=f"step_{step}")
    if is_main():
        print(f"resuming {run} at step {step} of {config.steps}", flush=True)
    return step


class Recorder:
    """metrics.jsonl and the progress line. Scalars stay on the device until they are read, every `every` steps."""

    def __init__(self, run: Path, config: PretrainConfig, start: int):
        self.path, self.config, self.pending, self.clock = run / "metrics.jsonl", config, [], time.perf_counter()
        self.bar = progress(config.steps, "pretrain", "step", initial=start, show=is_main())
        self.peaks: dict[str, float] = {}
        self.warning: str | None = None

    def reads(self, step: int) -> bool:
        """Whether the metrics are read after this step: what is costly is computed for these steps alone."""
        return (step + 1) % self.config.log_every == 0 or step + 1 == self.config.steps

    def add(self, step: int, lr: float, metrics: dict[str, torch.Tensor], probes: dict[str, float]) -> None:
        self.pending.append((step, lr, metrics, probes))
        if self.reads(step):
            self.flush()

    def flush(self) -> None:
        """Read the pending steps' means over the ranks in one transfer; raises `UserError` for a loss not finite."""
        values = torch.stack([value for _, _, metrics, _ in self.pending for value in metrics.values()])
        values = iter((all_sum(values) / world_size()).tolist())
        now = time.perf_counter()
        rate = self.config.batch_size * len(self.pending) / (now - self.clock)
        for step, lr, metrics, probes in self.pending:
            record = {"step": step, **{name: next(values) for name in metrics}}
            if not math.isfinite(record["loss"]):
                raise UserError(f"the loss became {record['loss']} at step {step}: lower --lr or raise --lambda-*")
            record |= self._collapse(record) | {"lr": lr, "samples_per_s": round(rate, 1), **probes}
            if is_main():
                append_jsonl(self.path, record)
        self.bar.set_postfix_str(f"loss {record['loss']:.4f}, {rate:.0f} samples/s", refresh=False)
        self.bar.update(len(self.pending))
        self.pending, self.clock = [], now

    def _collapse(self, record: dict) -> dict[str, str]:
        """The record's warning of collapse, if any; it is also printed when it begins."""
        ranks = {name: value for name, value in record.items() if name.startswith("rank_")}
        self.peaks = {name: max(value, self.peaks.get(name, 0.0)) for name, value in ranks.items()} or self.peaks
        if not ranks or record["step"] < max(SETTLED, self.config.warmup_steps):
            return {}
        attainable = min(self.config.embed_dim, self.config.batch_size // world_size() - 1)
        before, self.warning = self.warning, collapse(record, self.peaks, attainable)
        if self.warning and not before and is_main():
            self.bar.write(f"step {record['step']}: {self.warning}")
        return {"warning": self.warning} if self.warning else {}


def train(config: PretrainConfig) -> None:
    """Run or continue `config.out`; on return RUN/encoder holds the trained encoder."""
    start_processes()
    run, target = Path(config.out), device()
    data = open_captions(config.data, config.image_column, config.caption_column)
    encoder = build_encoder(config, load_tokenizer(config.tokenizer, data)).to(target)
    use_fast_attention(encoder, target)
    logits = Logits(config.objective).to(target) if config.objective in ("clip", "siglip") else None
    model = Pretrainer(encoder, config.micro_batch_size // world_size(), compute_dtype(config, target), logits)
    engine = start_engine(model, parameter_groups(model, config.weight_decay), config, world_size())
    settings = checkpoints.fingerprint(config, data.fingerprint)
    start = resume_step(engine, run, config, settings)
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
    )
    recorder = Recorder(run, config, start)

    def save(step: int) -> None:
        checkpoints.save(engine, run, step, settings, world_size())

    loop(engine, batches, recorder, save, Watch(encoder, config), config, start)
    export(engine, run)


def loop(
    engine, batches, recorder: Recorder, save: Callable[[int], None], watch: Watch, config: PretrainConfig, start: int
) -> None:
    """Steps `start` to `config.steps`: the learning rate, directions and data are functions of the step alone."""
    target, tokenizer = device(), engine.module.encoder.tokenizer
    schedule, compute = SCHEDULES[config.schedule], objective(config)
    for step, batch in enumerate(batches, start=start):
        lr = schedule(step, config.steps, config.warmup_steps, config.lr, config.min_lr)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        ids, lengths = tokenizer(batch["captions"])
        pixels = to_device(batch["images"], target)
        embeddings = engine(pixels, to_device(ids, target), lengths)
        loss, metrics = compute(embeddings, step=step)
        engine.backward(loss)
        engine.step()
        if recorder.reads(step):
            metrics |= health(embeddings)
        recorder.add(step, lr, metrics, watch(engine, step + 1))
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save(step + 1)


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
            encoder.config = replace(encoder.config, **(logits.values() if logits else {}))
            encoder.save(run / "encoder")
            print(f"encoder written to {run / 'encoder'}", flush=True)
    barrier()
