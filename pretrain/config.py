"""Every setting of a pretraining run, flat; the three presets, and what each objective settles."""

from dataclasses import dataclass, fields, replace

from pretrain.schedule import longest_warmup, shortened_warmup
from vlm.errors import UserError

BUCKET = 50_000_000  # gradients that ZeRO reduces together: a buffer of 0.2 GB, where DeepSpeed's own default takes 2
MAY_BE_ZERO = {"seed", "steps", "projector_depth", "micro_batch_size", "warmup_steps", "workers", "zero", "probe_every"}


@dataclass(frozen=True)
class PretrainConfig:
    """Defaults are the published v2 recipe on a ViT-B; a preset changes sizes and budget, a flag changes anything."""

    data: str = "runs/world/captions"
    out: str = "runs/pretrain"
    preset: str = "tiny"
    objective: str = "levljepa"
    seed: int = 0
    resume: str = "auto"

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    embed_dim: int = 256
    projector_width: int = 2048
    projector_depth: int = 4
    tokenizer: str = "gpt2"

    directions: int = 4096
    lambda_image: float = 0.02
    lambda_text: float = 0.02
    lambda_multi: float = 0.2

    steps: int = 200_000
    batch_size: int = 4096
    micro_batch_size: int = 0
    lr: float = 2e-4
    min_lr: float = 2e-5
    warmup_steps: int = 1000
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    zero: int = 1
    dtype: str = "auto"

    augmentation: str = "crop-jitter"
    image_column: str | None = None
    caption_column: str | None = None
    bad_ratio: float = 0.05
    workers: int = 4
    tracker: str = "auto"
    log_every: int = 10
    save_every: int = 2000
    probe_every: int = 0
    probe_data: str | None = None

    @property
    def local_size(self) -> int:
        """Side of a local crop: 3/7 of the image's, in whole patches; 96 of 224 as DINO takes it."""
        return max(1, round(self.image_size * 3 / 7 / self.patch_size)) * self.patch_size

    def check(self) -> None:
        """Raise `UserError` for settings that are out of range or contradict each other."""
        for name, value in vars(self).items():
            least = 1 if isinstance(value, int) and name not in MAY_BE_ZERO else 0
            if isinstance(value, (int, float)) and not name.startswith("lambda_") and not value >= least:
                raise UserError(f"--{name.replace('_', '-')} {value}: give {least} or more")
        if self.vision_width % self.vision_heads or self.text_width % self.text_heads:
            raise UserError("the width of a tower must be a multiple of its number of heads")
        if self.image_size % self.patch_size:
            raise UserError(f"--image-size {self.image_size} is not a multiple of --patch-size {self.patch_size}")
        if self.batch_size < 2:
            raise UserError(f"--batch-size {self.batch_size}: BatchNorm needs 2 samples or more")
        if self.min_lr > self.lr:
            raise UserError(f"--min-lr {self.min_lr} is above --lr {self.lr}: lower it as well")
        if bool(self.probe_every) != bool(self.probe_data):
            raise UserError(
                f"--probe-every {self.probe_every} --probe-data {self.probe_data}: give a number of steps, "
                "and captions that are not trained on"
            )
        if self.bad_ratio > 1:
            raise UserError(f"--bad-ratio {self.bad_ratio}: give a share of the samples, 1 or less")
        if self.micro_batch_size > self.batch_size:
            raise UserError(
                f"--micro-batch-size {self.micro_batch_size} is above --batch-size {self.batch_size}: leave it out"
            )
        self._check_objective()
        if self.warmup_steps > (longest := longest_warmup(self.schedule, self.steps)):
            raise UserError(
                f"--warmup-steps {self.warmup_steps}: of --steps {self.steps} and --schedule {self.schedule} "
                f"at most {longest} can be warm-up"
            )

    def _check_objective(self) -> None:
        predicts, crops = self.objective.startswith("levljepa"), self.objective == "levljepa-plus"
        weights = [self.lambda_image, self.lambda_text] + ([self.lambda_multi] if crops else [])
        if predicts and not (min(weights) >= 0 and sum(weights) < 1):
            raise UserError(f"the --lambda-* are {weights}: each at least 0, together below 1, for the prediction loss")
        if predicts != (self.projector_depth > 0):
            needed = "needs 1 hidden layer or more (the paper's 4)" if predicts else "has no predictors: leave it out"
            raise UserError(f"--projector-depth {self.projector_depth}: --objective {self.objective} {needed}")
        if crops != (self.augmentation == "dino"):
            needed = "dino" if crops else "crop-jitter or squash"
            raise UserError(f"--augmentation {self.augmentation}: --objective {self.objective} needs {needed}")


# tiny: the embedded world on two CPU cores in minutes. small: a ViT-S on one GPU. base: the released ViT-B recipe.
PRESETS: dict[str, dict] = {
    "tiny": dict(
        image_size=48,
        patch_size=12,
        vision_width=128,
        vision_layers=3,
        vision_heads=2,
        text_width=96,
        text_layers=2,
        text_heads=2,
        embed_dim=64,
        projector_width=256,
        projector_depth=2,
        tokenizer="train:1024",
        directions=256,
        lambda_image=0.04,
        lambda_text=0.04,
        steps=5400,
        batch_size=32,
        lr=7e-4,
        min_lr=7e-6,
        warmup_steps=200,
        weight_decay=0.05,
        augmentation="squash",
        workers=0,
        save_every=1000,
    ),
    "small": dict(
        vision_width=384, vision_heads=6, text_width=384, text_heads=6, batch_size=1024, steps=50_000, embed_dim=256
    ),
    "base": {},
}


# What an objective settles whatever the preset; all else is the same for all of them.
OBJECTIVES: dict[str, dict] = {
    "levljepa": {},
    "levljepa-plus": dict(augmentation="dino"),
    "clip": dict(projector_depth=0),
    "siglip": dict(projector_depth=0),
}


# Flags that only some objectives read.
READ_BY: dict[str, tuple[str, ...]] = {
    "directions": ("levljepa", "levljepa-plus"),
    "lambda_image": ("levljepa", "levljepa-plus"),
    "lambda_text": ("levljepa", "levljepa-plus"),
    "lambda_multi": ("levljepa-plus",),
}


def from_preset(preset: str, **changes) -> PretrainConfig:
    """The preset's configuration with the objective's settings and then `changes` applied, checked.

    A warm-up that is not among the `changes` is shortened where the steps leave no room for it.
    """
    objective = OBJECTIVES[changes.get("objective", PretrainConfig.objective)]
    config = replace(PretrainConfig(preset=preset), **{**PRESETS[preset], **objective, **changes})
    for name, readers in READ_BY.items():
        if name in changes and config.objective not in readers:
            raise UserError(
                f"--{name.replace('_', '-')} has no effect with --objective {config.objective}: leave it out"
            )
    if "warmup_steps" not in changes and config.steps > 0:
        shortened = shortened_warmup(config.schedule, config.steps, config.warmup_steps)
        config = replace(config, warmup_steps=shortened)
    config.check()
    return config


FIELDS = {field.name: field for field in fields(PretrainConfig)}
