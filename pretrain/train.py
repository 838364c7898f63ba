"""The pretraining run: set-up, loop, checkpoints, export.

shards -> batches -> Pretrainer -> objective -> DeepSpeed's optimizer step -> recorder
"""

import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pretrain import checkpoints
from pretrain.batchnorm import GlobalBatchNorm1d, RunningStatistics
from pretrain.card import write_encoder_card
from pretrain.compiling import compile_towers, compiles_fast, several_shapes
from pretrain.config import PretrainConfig
from pretrain.contrastive import INITIAL, LogitScale
from pretrain.data.augment import augmentation
from pretrain.data.batches import CaptionBatches
from pretrain.data.embedded import draw_if_default
from pretrain.data.mixing import MixedCaptions
from pretrain.data.source import open_captions
from pretrain.data.tokenizer import load_tokenizer
from pretrain.data.workers import dead_loaders_told, loader_workers
from pretrain.init import Init, open_init
from pretrain.model import Pretrainer, encoder_config, parameter_groups, use_fast_attention
from pretrain.objective import objective
from pretrain.price import check_room
from pretrain.probes.watch import Watch
from pretrain.recorder import Recorder
from pretrain.zero import Engine, device, gathered, set_learning_rate, start_engine, start_processes, update
from vlm.device import enough_memory, sent
from vlm.distributed import AnyRank, barrier, is_main, late_ranks_named, on_main, rank, world_size
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.encoders.levljepa import new_encoder
from vlm.encoders.tokens import CaptionTokenizer
from vlm.files import read_json
from vlm.llms.precision import default_dtype
from vlm.run.checkpoints import Checkpoints, settings_at
from vlm.run.compiler import check_compiler
from vlm.run.folder import begin, finish, locked
from vlm.run.schedule import SCHEDULES
from vlm.run.settings import trajectory
from vlm.run.signals import keeping, stoppable
from vlm.run.steps import committed_steps, kept_words
from vlm.run.stopping import leave


def build_model(
    config: PretrainConfig, tokenizer: CaptionTokenizer, target: torch.device, start_from: Init | None = None
) -> Pretrainer:
    """The module that is trained: BatchNorm over all ranks, on its device.

    Its weights are random, keyed by the seed, but for those that `start_from` has.
    """
    training = {**trajectory(config), "tokenizer": config.tokenizer}
    training |= start_from.training() if start_from else {}
    sizes = encoder_config(config, tokenizer.vocab_size, mean=CLIP_MEAN, std=CLIP_STD, training=training)
    encoder = new_encoder(sizes, config.seed, tokenizer, GlobalBatchNorm1d)
    if start_from:
        encoder = start_from.fill(encoder)
    encoder = encoder.to(target)
    use_fast_attention(encoder, target)
    logit_scale = LogitScale(config.objective).to(target) if config.objective in INITIAL else None
    if start_from and logit_scale:
        start_from.fill_logit_scale(logit_scale)
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    micro = config.micro_batch_size // world_size()
    model = Pretrainer(encoder, micro, dtype, logit_scale)
    if config.compile:
        rows = config.batch_size // world_size()
        compile_towers(encoder, several_shapes(rows, micro, several_crops=config.augmentation == "dino"))
    return model


def _settings_before(config: PretrainConfig) -> dict[str, Any]:
    """The settings of the run that goes on, or that is branched from; {} if one begins."""
    run = Path(config.out)
    if committed_steps(run / "checkpoints"):
        return read_json(run / "config.json") if (run / "config.json").is_file() else {}
    return settings_at(Path(config.branch), config.branch_step) if config.branch else {}


def decided(config: PretrainConfig, target: torch.device) -> PretrainConfig:
    """The config with --zero, --dtype and --compile, where they are left open, decided by processes and device.

    A run that goes on, and a branch of one, keeps the --dtype and --compile that it was started with, on whatever it
    goes on. Its ZeRO stage is chosen anew: a checkpoint fits every stage. Collective.

    Raises: UserError if the towers are to be compiled and a machine cannot.
    """
    before = on_main(lambda: _settings_before(config))  # a rank of its own mind would wait alone below
    find: dict[str, Callable[[], Any]] = {
        "zero": lambda: config.zero_stage(world_size()),
        "dtype": lambda: "bf16" if default_dtype(target) == torch.bfloat16 else "fp32",
        "compile": lambda: config.zero != 3 and compiles_fast(target),
    }
    left_open = [name for name in find if getattr(config, name) in (None, "auto")]
    kept = {name: before[name] for name in left_open if name in before and name != "zero"}
    found = {name: kept[name] if name in kept else find[name]() for name in left_open}
    config = replace(config, **found)
    config.check()
    if config.compile:
        check_compiler(target, "go on with --no-compile --allow-change compile" if before else "leave it out")
    return config


def train(config: PretrainConfig) -> None:
    """Run or continue `config.out`; on return RUN/encoder holds the trained encoder; collective.

    Raises: UserError if data, settings or what the folder holds do not allow it, or training has broken down.
    """
    start_processes(config.timeout)
    run, target = Path(config.out), device()
    with late_ranks_named(config.timeout), locked(run):
        config = decided(config, target)
        draw_if_default(config.data)
        data = open_captions(config.data, config.image_column, config.caption_column, image_root=config.image_root)
        if isinstance(data, MixedCaptions) and is_main():
            print("\n".join(["data", *data.describe(config.steps * config.batch_size)]), flush=True)
        start_from = open_init(config)
        config = checkpoints.keep_warmup(run, config)
        config = checkpoints.branch_if_asked(run, config, data.fingerprint, start_from.digest if start_from else None)
        model = build_model(config, load_tokenizer(config.tokenizer, data), target, start_from)
        engine = start_engine(model, parameter_groups(model, config.weight_decay), config, world_size())
        kept = checkpoints.open_checkpoints(run, config, data.fingerprint, start_from.digest if start_from else None)
        start, recorded = checkpoints.resume(engine, kept, config)
        kept.expected = on_main(lambda: check_room(config, start))
        if is_main():
            begin(run, asdict(config) | (start_from.record() if start_from else {}))
            if start_from and not start:
                print(start_from.describe(model.encoder), flush=True)
        transform = augmentation(config)
        batches = CaptionBatches(
            data,
            transform,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            stop_step=config.steps,
            rank=rank(),
            world_size=world_size(),
            workers=loader_workers(config),
            fit=math.ceil(config.image_size * transform.enlarges),
            quarantine=run / "quarantine.jsonl",
            bad_ratio=config.bad_ratio,
            tokenize=model.encoder.tokenizer,
        )
        recorder = Recorder(run, config, start, recorded)
        loop(engine, batches, recorder, Watch(model.encoder, config), kept, config)
        with keeping(kept_words(run)):
            export(model, run / "encoder")
        if is_main():
            write_encoder_card(run / "encoder", config, data.fingerprint)
            finish(run, config.steps, run / "encoder")
            print(f"encoder written to {run / 'encoder'}; next: {bridge_command(run)}", flush=True)


def bridge_command(run: Path) -> str:
    """The command that takes the encoder of `run` to a VLM; only the default run needs no --encoder."""
    encoder = "" if run == Path(PretrainConfig.out) else f" --encoder {shlex.quote(str(run / 'encoder'))}"
    return f"python bridge/train.py --llm smollm2{encoder}"


@dead_loaders_told()
def loop(
    engine: Engine, batches: CaptionBatches, recorder: Recorder, watch: Watch, kept: Checkpoints, config: PretrainConfig
) -> None:
    """The steps of `batches`: the learning rate, directions and data are functions of the step alone.

    engine: DeepSpeed's, around a `Pretrainer`. A signal to stop ends the loop with a checkpoint of the step under way.
    """
    target, schedule, compute = device(), SCHEDULES[config.schedule], objective(config)
    model: Any = engine.module
    statistics, told_to_stop = RunningStatistics(model), AnyRank(target)
    step = batches.steps.start
    smaller = enough_memory(lambda: f"in step {step} of {config.steps} ({_batch(config)})", lambda: _smaller(config))
    with stoppable(deferred=True) as told, recorder.bar, smaller:
        for step, batch in enumerate(recorder.timing(batches, target), start=batches.steps.start):
            lr = schedule(step, config.steps, config.warmup_steps, config.lr, config.min_lr)
            set_learning_rate(engine, lr)

            pixels, tokens = _to_device(batch["images"], target), sent(batch["tokens"], target)
            embeddings = engine(pixels, tokens, batch["lengths"])
            loss, metrics = compute(embeddings, step=step)

            engine.backward(loss * (1 + 0 * loss.detach()))  # NaN in every gradient if the loss is not finite
            metrics["gradient_norm"] = update(engine, config.clip)
            statistics.keep_or_restore(metrics["gradient_norm"].isfinite())

            recorder.rows.add(embeddings)
            if recorder.reads(step):
                metrics |= recorder.rows.health()
            recorder.add(step, lr, metrics, watch.after(step + 1), batch["ids"])

            last = step + 1 == config.steps
            stop = told_to_stop(told() is not None) and not last
            due = any(every and (step + 1) % every == 0 for every in (config.save_every, config.keep_every))
            if stop or last or due:
                recorder.flush()  # before: a step that a checkpoint holds is not recorded again
                checkpoints.save(engine, kept, step + 1, recorder.state())
            if config.export_every and (step + 1) % config.export_every == 0:
                export(model, kept.run / "encoders" / f"step_{step + 1}")
            if stop:
                leave(step + 1, recorder.bar, told())


def _batch(config: PretrainConfig) -> str:
    """A step's batch as an error tells it, such as "64 pairs on this process, 16 of them at a time"."""
    rows, at_once = config.batch_size // world_size(), config.micro_batch_size // world_size()
    return f"{rows} pairs on this process, {at_once or 'all'} of them at a time"


def _smaller(config: PretrainConfig) -> str:
    """What makes the step smaller without making it another one, and that nothing is lost."""
    now, ways = config.micro_batch_size or config.batch_size, []
    if now > world_size():
        ways.append(f"--micro-batch-size {max(1, now // world_size() // 2) * world_size()}")
    if world_size() > 1 and config.zero in (0, 1):
        ways.append("--zero 2")
    return f"give {' or '.join([*ways, 'more processes'])}; {kept_words(Path(config.out))}"


def _to_device(images: torch.Tensor | list[torch.Tensor], target: torch.device) -> torch.Tensor | list[torch.Tensor]:
    if isinstance(images, torch.Tensor):
        return sent(images, target)
    return [sent(crops, target) for crops in images]


def export(model: Pretrainer, folder: Path) -> None:
    """Write the encoder as it is now, its weights gathered from the ranks that ZeRO-3 spread them over; collective."""
    with gathered(list(model.parameters())):
        if is_main():
            scalars: dict[str, Any] = model.logits.values() if model.logits else {}
            model.encoder.with_config(**scalars).save(folder)
    barrier()
