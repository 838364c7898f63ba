"""Every setting of a pretraining run, flat, what a preset or an objective changes, and what makes no sense together."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vlm.encoders.config import EncoderConfig
from vlm.errors import UserError
from vlm.run.schedule import SCHEDULES, longest_warmup, shortened_warmup
from vlm.run.settings import (
    allow_change_setting,
    check_bounds,
    flag,
    resume_setting,
    seed_setting,
    setting,
    timeout_setting,
)
from vlm.run.trackers import TRACKERS

# The captions of the embedded world, which a run draws if it is given no others.
WORLD = "runs/world/captions"
# Gradients that ZeRO reduces together, in a buffer of 0.2 GB; DeepSpeed's own default takes 2.
REDUCE_BUCKET_SIZE = 50_000_000

# What a preset changes of the settings below.
# tiny: the embedded world on two CPU cores in minutes. small: a ViT-S on one GPU. cc12m: the ViT-B of the authors'
# first code, of 256 samples a GPU, here on 8. base: the released ViT-B recipe, on DataComp.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(
        image_size=48, patch_size=12, vision_width=128, vision_layers=3, vision_heads=2,
        text_width=96, text_layers=2, text_heads=2, tokenizer="train:1024",
        embed_dim=64, projector_width=256, projector_depth=2,
        directions=256, lambda_image=0.04, lambda_text=0.04,
        steps=5000, batch_size=32, lr=7e-4, min_lr=7e-6, warmup_steps=200, weight_decay=0.05,
        augmentation="squash", workers=0, save_every=1000,
    ),
    "small": dict(vision_width=384, vision_heads=6, text_width=384, text_heads=6, embed_dim=256,
                  batch_size=1024, steps=50_000),
    "cc12m": dict(embed_dim=768, batch_size=2048, steps=50_000, augmentation="squash"),
    "base": {},
}  # fmt: skip

# What an objective settles whatever the preset; all else is the same for all of them.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "levljepa": {},
    "levljepa-plus": dict(augmentation="dino"),
    "clip": dict(projector_depth=0),
    "siglip": dict(projector_depth=0),
}

# Settings that only some objectives read, and those objectives.
PREDICTING, CROPPING = ("levljepa", "levljepa-plus"), ("levljepa-plus",)
READ_BY = {"directions": PREDICTING, "lambda_image": PREDICTING, "lambda_text": PREDICTING, "lambda_multi": CROPPING}

# The headings of `--help`, and what most fields under them share. A run may go on with other records.
_size = partial(setting, group="sizes", least=1, fixed=True)
_loss = partial(setting, group="objective")
_step = partial(setting, group="optimization", least=0)
_data = partial(setting, group="data")
_record = partial(setting, group="records", free=True)


@dataclass(frozen=True)
class PretrainConfig:
    """Defaults are the published v2 recipe on a ViT-B; a preset changes sizes and budget, a flag changes anything."""

    data: str = setting(
        WORLD,
        help="captions: WebDataset tars, parquet, Arrow, csv, jsonl or images with texts, as a folder, glob or brace "
        "pattern; a Hugging Face data set; the URL of tars (s3://, gs://, hf://, https://). With weights: a=0.7,b=0.3",
        metavar="SOURCE",
        by_content=True,
        joined=",",
    )
    out: str = setting(
        "runs/pretrain",
        help="the run's folder: config.json, metrics.jsonl, checkpoints/, encoder/; on storage that all nodes share",
        free=True,
    )
    preset: str = setting(
        "tiny",
        help="tiny: the embedded world on a CPU; small: ViT-S on a GPU; cc12m, base: the ViT-B recipes for CC12M and "
        "for DataComp, which was released",
        choices=tuple(PRESETS),
    )
    objective: str = setting(
        "levljepa",
        help="levljepa; levljepa-plus: 2 global and 4 local crops an image; clip, siglip: the paper's baselines",
        choices=tuple(OBJECTIVES),
        fixed=True,
    )
    seed: int = seed_setting(help="of weights, directions, data order and augmentation")
    resume: str = resume_setting()
    allow_change: tuple[str, ...] = allow_change_setting()
    branch: str | None = setting(
        None,
        help="start --out, if it holds no run, from a checkpoint of this run: another decay of its stable phase",
        metavar="RUN",
        free=True,
    )
    branch_step: int | None = setting(None, help="of that checkpoint", least=1, free=True, default_text="the newest")
    init: str | None = setting(
        None,
        help="start from these weights: both towers and heads of a LeVLJEPA folder or hub id, or a timm ViT alone",
        metavar="DIR|HUB_ID|timm:NAME[@SIZE][@FILE]",
        by_content=True,
        fixed=True,
    )

    image_size: int = _size(EncoderConfig.image_size, help="pixels of a side")
    patch_size: int = _size(EncoderConfig.patch_size, help="pixels of a patch's side")
    vision_width: int = _size(EncoderConfig.vision_width, help="of the ViT")
    vision_layers: int = _size(EncoderConfig.vision_layers, help="blocks of the ViT")
    vision_heads: int = _size(EncoderConfig.vision_heads, help="attention heads of the ViT")
    text_width: int = _size(EncoderConfig.text_width, help="of the text tower")
    text_layers: int = _size(EncoderConfig.text_layers, help="blocks of the text tower")
    text_heads: int = _size(EncoderConfig.text_heads, help="its attention heads")
    embed_dim: int = _size(EncoderConfig.embed_dim, help="of the embeddings z_v and z_t")
    projector_width: int = _size(EncoderConfig.projector_width, help="hidden width of heads and predictors")
    projector_depth: int = _size(EncoderConfig.projector_depth, help="of predictors; 0 for clip and siglip", least=0)
    tokenizer: str = _size("gpt2", help="gpt2, train:SIZE (learns one), or a tokenizer.json", by_content=True)

    directions: int = _loss(4096, help="random directions of SIGReg", least=1)
    lambda_image: float = _loss(0.02, help="weight of SIGReg on the images' embeddings")
    lambda_text: float = _loss(0.02, help="weight of SIGReg on the captions' embeddings")
    lambda_multi: float = _loss(0.2, help="weight of levljepa-plus's pull between an image's crops")

    steps: int = _step(200_000, help="optimizer steps; 0 writes the untrained encoder")
    batch_size: int = _step(4096, help="samples a step over all processes", least=1)
    micro_batch_size: int = _step(0, help="samples of them whose activations live at a time (0: all)", free=True)
    lr: float = _step(2e-4, help="peak learning rate")
    min_lr: float = _step(2e-5, help="learning rate of the last step")
    warmup_steps: int = _step(1000, help="linear; a preset's becomes a tenth of --steps if it does not fit")
    schedule: str = _step(
        "cosine", help="wsd: stable until the last 15 % of the steps, free of warm-up", choices=tuple(SCHEDULES)
    )
    weight_decay: float = _step(0.01, help="of AdamW, on matrices alone")
    clip: float = _step(1.0, help="largest gradient norm; 0: no clipping")
    zero: int | None = _step(
        None,
        help="DeepSpeed ZeRO stage",
        choices=(0, 1, 2, 3),
        default_text="0 on one process, else 1",
        free=True,
    )
    reduce_dtype: str = _step(
        "fp32",
        help="in which gradients are summed over the processes; bf16 halves what travels",
        choices=("fp32", "bf16"),
    )
    deepspeed: str | None = _step(
        None,
        help="JSON file of further DeepSpeed settings, such as buckets of zero_optimization; batch sizes, optimizer, "
        "precision and stage are this command's own",
        metavar="FILE",
        free=True,
    )
    compile: bool | None = _step(
        None,
        help="run both towers through torch.compile",
        default_text="on a GPU with Triton and a C compiler, below ZeRO 3",
    )
    timeout: float = timeout_setting(30.0, group="optimization")
    dtype: str = _step(
        "auto", help="auto: bf16 autocast where the device has instructions for it", choices=("auto", "bf16", "fp32")
    )

    augmentation: str = _data(
        "crop-jitter",
        help="squash: none; crop-jitter: mild; dino: the crops of levljepa-plus",
        choices=("crop-jitter", "squash", "dino"),
    )
    image_column: str | None = _data(None, help="column or suffix of the images [the usual names]")
    caption_column: str | None = _data(
        None, help="column or suffix of the captions, or a field as json:caption [the usual names]"
    )
    image_root: str | None = _data(
        None, help="folder in which images that a table names may lie, beside the table's own", metavar="DIR", free=True
    )
    bad_ratio: float = _data(
        0.05,
        help="largest share of each process's samples that may be unusable; 0: none",
        least=0,
        most=1,
        free=True,
    )
    workers: int | None = _data(
        None,
        help="loader processes of each rank",
        least=0,
        free=True,
        default_text="this machine's cores for its ranks, less one a rank",
    )

    tracker: str = _record("auto", help="auto: RUN/tensorboard if TensorBoard is installed", choices=TRACKERS)
    log_every: int = _record(10, help="steps between two readings of the metrics", least=1)
    save_every: int = _record(2000, help="steps between two checkpoints; the last two are kept", least=1)
    keep_every: int = _record(0, help="steps between two checkpoints that are kept for good (0: none)", least=0)
    export_every: int = _record(0, help="steps between two encoders in RUN/encoders/, all kept (0: none)", least=0)
    probe_every: int = _record(0, help="steps between two probes of the encoder (0: none)", least=0)
    probe_data: str | None = _record(None, help="captions held out, for probes of retrieval and rank")
    probe_pool: int = _record(256, help="usable pairs of --probe-data that are read, or all if they are fewer", least=5)
    probe_classes: str | None = _record(None, help="class folders or a data set, for probes of zero-shot accuracy")
    probe_images: int = _record(2000, help="images of --probe-classes, evenly spread (0: all)", least=0)

    @property
    def local_size(self) -> int:
        """Side of a local crop: 3/7 of the image's, in whole patches; 96 of 224 as DINO takes it."""
        return max(1, round(self.image_size * 3 / 7 / self.patch_size)) * self.patch_size

    def zero_stage(self, processes: int) -> int:
        """--zero, or the stage that pays: on one process there is nothing to share, and ZeRO is work for nothing."""
        return self.zero if self.zero is not None else int(processes > 1)

    def check(self) -> None:
        """Hold the settings against their bounds and each other. Raises: UserError."""
        check_bounds(self)
        if self.vision_width % self.vision_heads or self.text_width % self.text_heads:
            raise UserError("the width of a tower must be a multiple of its number of heads")
        if self.image_size % self.patch_size:
            raise UserError(f"--image-size {self.image_size} is not a multiple of --patch-size {self.patch_size}")
        if self.batch_size < 2:
            raise UserError(f"--batch-size {self.batch_size}: BatchNorm needs 2 samples or more")
        if self.min_lr > self.lr:
            raise UserError(f"--min-lr {self.min_lr} is above --lr {self.lr}: lower it as well")
        probed = [(name, value) for name in ("probe_data", "probe_classes") if (value := getattr(self, name))]
        if self.probe_every and not probed:
            needed = "--probe-data with captions that are not trained on, or --probe-classes"
            raise UserError(f"--probe-every {self.probe_every}: give also {needed}")
        if probed and not self.probe_every:
            named = " ".join(f"{flag(name)} {value}" for name, value in probed)
            raise UserError(f"{named}: give also --probe-every with a number of steps, or leave it out")
        if self.branch_step and not self.branch:
            raise UserError(f"--branch-step {self.branch_step} is of --branch RUN: give both")
        if (micro := self.micro_batch_size) > self.batch_size:
            raise UserError(f"--micro-batch-size {micro} is above --batch-size {self.batch_size}: leave it out")
        if self.compile and self.zero == 3:
            raise UserError("--compile: ZeRO 3 gathers weights as blocks run, which is not compiled: --zero 2 or less")
        # The objective decides on weights, predictors and augmentation.
        predicts, crops = self.objective in PREDICTING, self.objective in CROPPING
        weights = [self.lambda_image, self.lambda_text] + ([self.lambda_multi] if crops else [])
        if predicts and not (min(weights) >= 0 and sum(weights) < 1):
            raise UserError(f"the --lambda-* are {weights}: each at least 0, together below 1, for the prediction loss")
        if predicts != (self.projector_depth > 0):
            needed = "needs 1 hidden layer or more (the paper's 4)" if predicts else "has no predictors: leave it out"
            raise UserError(f"--projector-depth {self.projector_depth}: --objective {self.objective} {needed}")
        if crops != (self.augmentation == "dino"):
            needed = "dino" if crops else "crop-jitter or squash"
            raise UserError(f"--augmentation {self.augmentation}: --objective {self.objective} needs {needed}")
        if self.warmup_steps > (longest := longest_warmup(self.schedule, self.steps)):
            of = f"of --steps {self.steps} and --schedule {self.schedule} at most {longest} can be warm-up"
            raise UserError(f"--warmup-steps {self.warmup_steps}: {of}")


def from_preset(preset: str, **changes) -> PretrainConfig:
    """The preset's configuration with the objective's settings and then `changes` applied, checked.

    A warm-up that is not among the `changes` is shortened if the steps leave no room for it.
    Raises: UserError if a setting has no effect, is out of its bounds, or contradicts another.
    """
    objective = OBJECTIVES[changes.get("objective", PretrainConfig.objective)]
    config = PretrainConfig(preset=preset, **{**PRESETS[preset], **objective, **changes})
    for name, readers in READ_BY.items():
        if name in changes and config.objective not in readers:
            raise UserError(f"{flag(name)} has no effect with --objective {config.objective}: leave it out")
    if "warmup_steps" not in changes and config.steps > 0:
        config = replace(config, warmup_steps=preset_warmup(preset, config.schedule, config.steps))
    config.check()
    return config


def preset_warmup(preset: str, schedule: str, steps: int) -> int:
    """The preset's warm-up, shortened if the steps leave no room for it."""
    return shortened_warmup(schedule, steps, PRESETS[preset].get("warmup_steps", PretrainConfig.warmup_steps))
