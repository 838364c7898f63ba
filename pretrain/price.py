"""The price of a run, before it starts: parameters, memory, samples, hours, disk. Nothing is put on a device.

Bytes a process holds of P parameters among N processes. All of it is fp32; bf16 is autocast's alone:

    ZeRO   weights        master copy   gradients   AdamW's moments
    0      4P             -             4P          8P
    1      4P             4P/N          4P          8P/N       gradients are whole until they are reduced
    2      4P             4P/N          4P/N        8P/N
    3      4P + 4P/N      4P/N          4P/N        8P/N       models of this size stay gathered while a step lasts

and with ZeRO 1-3 the bucket in which gradients travel.

Activations are what autograd keeps for the backward pass, with a = 2 bytes in bf16 and 4 in fp32. For each token a
block of width W keeps its two residuals in fp32 (8W) and in the compute type the inputs of its four linear layers, q,
k, v and the MLP's hidden layer (14aW). The last ViT block works for CLS alone and keeps (4 + 4a)W a token. A hidden
layer of the heads keeps three vectors a sample. Captions count with 77 tokens, the longest. With --micro-batch-size the
towers keep one micro-batch, of the larger tower, and are computed again; inputs and heads are kept for the whole batch.
Each crop of levljepa-plus is an image of its size. In bf16 autocast also keeps a copy of the weights, 2P.

Not counted: the objective's own, temporaries, workspaces of libraries, the CUDA context, what the allocator wastes.
Leave a tenth free.
"""

import math
from pathlib import Path

import torch

from pretrain.config import REDUCE_BUCKET_SIZE, PretrainConfig
from pretrain.contrastive import INITIAL, LogitScale
from pretrain.data.augment import crop_counts
from pretrain.data.mixing import MixedCaptions
from pretrain.data.source import open_captions
from pretrain.data.tokenizer import vocabulary
from pretrain.data.workers import AHEAD, SHARED, batch_bytes
from pretrain.model import encoder_config
from pretrain.overrides import with_overrides
from vlm.encoders.levljepa import Encoder
from vlm.encoders.tokens import CONTEXT
from vlm.errors import UserError, free_bytes
from vlm.room import file_sizes, require_room
from vlm.run.checkpoints import KEEP


def parameters(config: PretrainConfig) -> dict[str, int]:
    """Parameters by part, counted in the modules that a run trains, built without memory."""
    with torch.device("meta"):
        encoder = Encoder(encoder_config(config, vocabulary(config.tokenizer)))
    parts = {}
    for name, tower in (("image", encoder.image), ("caption", encoder.text)):
        parts |= {f"{name} tower": tower.encoder, f"{name} head": tower.pre_proj, f"{name} predictor": tower.projector}
    if config.objective in INITIAL:
        parts["logits"] = LogitScale(config.objective)
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def bucket_size(config: PretrainConfig) -> int:
    """Gradients that ZeRO reduces together, which --deepspeed FILE may set.

    Raises: UserError if that file cannot be read, or sets what is not its to decide.
    """
    own = {"zero_optimization": {"reduce_bucket_size": REDUCE_BUCKET_SIZE}}
    merged = with_overrides(own, Path(config.deepspeed)) if config.deepspeed else own
    size = merged["zero_optimization"]["reduce_bucket_size"]
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < math.inf:
        raise UserError(f"--deepspeed {config.deepspeed}: reduce_bucket_size {size!r}: give a number of gradients")
    return int(size)


def model_states(count: int, stage: int, processes: int, bucket: int = REDUCE_BUCKET_SIZE) -> dict[str, float]:
    """Bytes that a process holds of `count` parameters and what belongs to them, by kind; see above.

    bucket: gradients that are reduced together.
    """
    share = count / processes
    return {
        "weights": 4 * count + (4 * share if stage == 3 else 0),
        "master copy": 4 * share if stage else 0,
        "gradients": 4 * (share if stage >= 2 else count),
        "moments": 8 * (share if stage else count),
        "bucket": 4 * bucket if stage else 0,
    }


def checkpoint_bytes(count: int) -> int:
    """Bytes of a checkpoint on disk: fp32 weights and two moments, at every ZeRO stage."""
    return 12 * count


def activation_bytes(config: PretrainConfig, processes: int) -> int:
    """Bytes of activations and inputs that a process keeps at the end of its forward pass; see above."""
    a = 4 if config.dtype == "fp32" else 2
    crops = crop_counts(config)
    images = [_image_bytes(config, side, a) for side in crops]
    text = CONTEXT * config.text_width * (config.text_layers * (8 + 14 * a) + 4)
    heads = 3 * (sum(crops.values()) + 1 + 2 * config.projector_depth) * config.projector_width * a
    pixels = sum(views * 3 * side**2 for side, views in crops.items())
    local, micro = config.batch_size // processes, config.micro_batch_size // processes
    if 0 < micro < local:  # the towers keep one micro-batch, of one kind of input, at a time
        towers = max(*images, text) * micro
    else:
        of_sample = sum(views * image for views, image in zip(crops.values(), images)) + text
        towers = of_sample * local
    return towers + (heads + pixels) * local


def _image_bytes(config: PretrainConfig, side: int, a: int) -> int:
    """What the ViT keeps of one crop of `side` pixels."""
    tokens = 1 + (side // config.patch_size) ** 2
    return tokens * config.vision_width * ((config.vision_layers - 1) * (8 + 14 * a) + 4 + 4 * a) + 3 * side**2 * a


def describe(config: PretrainConfig, processes: int, throughput: float | None) -> str:
    """The price of a run on `processes` GPUs as a table; `throughput` in samples a second over all of them.

    Raises: UserError if `processes` do not share a batch evenly, or are none, or the throughput is not above 0.
    """
    if processes < 1:
        raise UserError(f"--world-size {processes}: give 1 or more processes")
    if config.batch_size % processes:
        raise UserError(f"--batch-size {config.batch_size} is not a multiple of --world-size {processes}")
    if throughput is not None and not throughput > 0:
        raise UserError(f"--throughput {throughput}: give samples a second, more than 0")
    parts, local = parameters(config), config.batch_size // processes
    total, stage = sum(parts.values()), config.zero_stage(processes)
    lines = [f"{config.preset}: world size {processes}, {local:,} samples each, ZeRO {stage}", "", "parameters"]
    lines += [f"  {name:18}{number:>14,}" for name, number in [*parts.items(), ("total", total)]]
    lines += ["", *_memory(config, processes, total), "", *_budget(config, throughput)]
    lines += ["", *_transport(config, processes, stage)]
    saved, encoder = checkpoint_bytes(total) / 1e6, 4 * total / 1e6
    milestones = _milestones(config)
    kept = f"the last {KEEP} are kept" + (f", and {milestones} by --keep-every" if milestones else "")
    lines.append(f"disk: {saved:,.0f} MB a checkpoint, {kept}; encoder {encoder:,.0f} MB")
    most, free = disk_bytes(config, total) / 1e6, free_bytes(config.out) / 1e6
    lines.append(f"  at most {most:,.0f} MB in {config.out}, while a checkpoint is replaced; {free:,.0f} MB are free")
    if most > free:
        lines.append(f"  {most - free:,.0f} MB are missing: make room, or give another --out")
    return "\n".join(lines)


def disk_bytes(config: PretrainConfig, total: int) -> int:
    """The most bytes that a run of `total` parameters takes: checkpoints, one while it is written, and encoders.

    Milestones count besides the last checkpoints: those of a run that is stopped need be none.
    """
    encoders = 1 + (config.steps // config.export_every if config.export_every else 0)
    return (KEEP + 1 + _milestones(config)) * checkpoint_bytes(total) + encoders * 4 * total


def _milestones(config: PretrainConfig) -> int:
    """How many checkpoints --keep-every keeps for good."""
    return config.steps // config.keep_every if config.keep_every else 0


def check_room(config: PretrainConfig, start: int) -> int:
    """Whether the next save of a run at step `start` fits on its disk, asked before that step -> a checkpoint's bytes.

    Raises: UserError if it does not.
    """
    run, total = Path(config.out), sum(parameters(config).values())
    saved, encoder = checkpoint_bytes(total), 4 * total
    parts = {"checkpoint": saved} if start < config.steps else {"encoder": encoder}
    there = sum(file_sizes(run / "checkpoints")) + sum(file_sizes(run / "encoders"))
    later = disk_bytes(config, total) - there - sum(parts.values())
    require_room(run, parts, max(0, later), largest=encoder)
    return saved


def _memory(config: PretrainConfig, processes: int, total: int) -> list[str]:
    """The memory table: one kind a line, one ZeRO stage a column, the chosen one marked."""
    activations = {"activations": activation_bytes(config, processes)}
    activations |= {"bf16 weights": 2 * total} if config.dtype != "fp32" else {}
    bucket = bucket_size(config)
    columns = [{**model_states(total, stage, processes, bucket), **activations} for stage in range(4)]
    columns = [{**column, "total": sum(column.values())} for column in columns]
    marks = [f"ZeRO {stage}{'*' if stage == config.zero_stage(processes) else ''}" for stage in range(4)]
    lines = [f"{'memory of each, MB':20}" + "".join(f"{mark:>10}" for mark in marks)]
    for kind in columns[0]:
        lines.append(f"  {kind:18}" + "".join(f"{column[kind] / 1e6:10,.1f}" for column in columns))
    return lines


def _transport(config: PretrainConfig, processes: int, stage: int) -> list[str]:
    """How batches reach a process, and how gradients are summed."""
    batch = batch_bytes(config, processes) / 1e6
    workers = "a loader worker" if config.workers is None else f"for {config.workers} loader workers"
    shared = AHEAD * batch * (1 if config.workers is None else config.workers)
    lines = [f"shared memory of each: {shared:,.1f} MB {workers}, {AHEAD} batches of {batch:,.1f} MB each, in {SHARED}"]
    if processes == 1:
        return [*lines, "gradients: of one process, none travel"]
    how = "while the backward pass goes on" if stage else "after the backward pass"
    size = {"fp32": 4, "bf16": 2}[config.reduce_dtype] * sum(parameters(config).values()) / 1e6
    return [*lines, f"gradients: {size:,.1f} MB a step in {config.reduce_dtype}, summed {how}, on GPUs (ZeRO {stage})"]


def _budget(config: PretrainConfig, throughput: float | None) -> list[str]:
    """Samples, epochs and hours."""
    samples = config.steps * config.batch_size
    lines = [f"samples: {samples:,} = {config.steps:,} steps x {config.batch_size:,}"]
    try:
        data = open_captions(config.data, config.image_column, config.caption_column, image_root=config.image_root)
        if isinstance(data, MixedCaptions):
            lines += ["epochs of each source", *(f"  {line}" for line in data.describe(samples))]
        else:
            lines.append(f"epochs: {samples / len(data):,.2f} of {len(data):,} pairs in {config.data}")
    except UserError as error:
        lines.append(f"epochs: unknown ({error})")
    hours = f"{samples / throughput / 3600:,.1f} hours at {throughput:,g} samples a second" if throughput else None
    return [*lines, f"time: {hours or 'unknown, give --throughput in samples a second'}"]
