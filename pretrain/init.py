"""--init: the weights that a run starts from, those of an encoder that was trained before or of a timm ViT."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretrain.config import PretrainConfig
from pretrain.contrastive import LogitScale
from vlm.cards.licences import encoder_part
from vlm.encoders.base import VisionEncoder
from vlm.encoders.levljepa import Encoder, load_encoder
from vlm.encoders.naming import parse_encoder
from vlm.encoders.timm import timm_encoder
from vlm.encoders.timm_vit import hidden_act
from vlm.encoders.weights import COUNTER
from vlm.errors import UserError
from vlm.run.settings import flag

VISION = ("patch_size", "vision_width", "vision_layers", "vision_heads")
TEXT = ("text_width", "text_layers", "text_heads")
HEADS = ("embed_dim", "projector_width")


@dataclass(frozen=True)
class Init:
    """An encoder to start from. digest: SHA-256 of its weights, whatever files they were in. licence: of these weights,
    in words; what is trained from them stays bound by it.
    """

    name: str
    source: VisionEncoder
    digest: str
    licence: str

    def record(self) -> dict[str, Any]:
        """What a run's config.json says of it beside its name."""
        pixels = {"mean": list(self.source.config.mean), "std": list(self.source.config.std)}
        return {"init_sha256": self.digest, "init_normalization": pixels, "init_licence": self.licence}

    def training(self) -> dict[str, str]:
        """What the encoder's own config.json says of it, under `training`."""
        return {"init": self.name, "init_sha256": self.digest, "init_licence": self.licence}

    def fill(self, encoder: Encoder) -> Encoder:
        """`encoder` with these weights, and the pixel statistics that they were trained with.

        Positions of another image size are interpolated, as timm does it.
        Raises: UserError if sizes or tokenizers differ.
        """
        refuse_sizes(self.name, self._sizes(), vars(encoder.config))
        source = self.source
        if source.config.image_size != encoder.config.image_size:
            source = source.resized(encoder.config.image_size)
        if isinstance(source, Encoder):
            self._refuse_tokenizer(source, encoder)
            _copy(source, encoder, self.name, skipped="projector." if self._depths_differ(encoder) else None)
        else:
            _refuse_activation(self.name, source.vision)
            _copy(source.vision, encoder.vision, self.name)
        return encoder.with_config(mean=source.config.mean, std=source.config.std)

    def fill_logit_scale(self, logit_scale: LogitScale) -> None:
        """Give it the source's scale and bias, if the source's objective had them."""
        for name, parameter in (("logit_scale", logit_scale.scale), ("logit_bias", logit_scale.bias)):
            value = getattr(self.source.config, name, None)
            if parameter is not None and value is not None:
                nn.init.constant_(parameter, value)

    def describe(self, encoder: Encoder) -> str:
        """What of `encoder` starts from these weights, in one line."""
        if not isinstance(self.source, Encoder):
            parts = "the vision tower; the text tower and the heads are random"
        elif self._depths_differ(encoder):
            parts = "both towers and their projections; this objective's predictors are not those of the other one"
        else:
            parts = "both towers and their heads"
        old, new = self.source.config.image_size, encoder.config.image_size
        resized = f"; positions are interpolated from {old} to {new} pixels" if old != new else ""
        return f"starting from {self.name}: {parts}{resized}; pixel mean {encoder.config.mean}"

    def _sizes(self) -> dict[str, Any]:
        source = self.source
        if isinstance(source, Encoder):
            return {name: getattr(source.config, name) for name in (*VISION, *TEXT, *HEADS, "projector_depth")}
        values = source.config.patch_size, source.width, len(source.vision.blocks), source.heads
        return dict(zip(VISION, values))

    def _depths_differ(self, encoder: Encoder) -> bool:
        """Whether one of both has no predictors: CLIP's and SigLIP's objectives do without."""
        return getattr(self.source.config, "projector_depth", 0) != encoder.config.projector_depth

    def _refuse_tokenizer(self, source: Encoder, encoder: Encoder) -> None:
        if source.tokenizer.backend.get_vocab() != encoder.tokenizer.backend.get_vocab():
            theirs = f"{self.name}/tokenizer.json" if source.tokenizer.vocab_size != 50257 else "gpt2"
            raise UserError(f"--init {self.name} reads captions by another tokenizer: give --tokenizer {theirs}")


def open_init(config: PretrainConfig) -> Init | None:
    """Open --init, or None without it. Raises: UserError if it is no LeVLJEPA encoder and no timm ViT."""
    if config.init is None:
        return None
    named = parse_encoder(config.init)
    if named.random or named.kind in ("hf", "blind"):
        raise UserError(f"--init {config.init}: give a LeVLJEPA folder or hub id, or a timm ViT as timm:NAME")
    is_timm = named.kind == "timm"
    source = timm_encoder(named.place) if is_timm else load_encoder(named.place, heads=config.vision_heads)
    digest = hashlib.sha256()
    for name, value in sorted(source.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return Init(config.init, source, digest.hexdigest(), encoder_part(config.init).says())


def refuse_sizes(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise a `UserError` that names the flags to give if the sizes of --init are not this run's."""
    wrong = [size for size, value in theirs.items() if value != ours[size]]
    if "projector_depth" in wrong and 0 in (theirs["projector_depth"], ours["projector_depth"]):
        wrong.remove("projector_depth")  # another objective's
    if wrong:
        has = ", ".join(f"{size} {theirs[size]}" for size in wrong)
        needed = " ".join(f"{flag(size)} {theirs[size]}" for size in wrong)
        raise UserError(f"--init {name} has {has}, this run {', '.join(str(ours[s]) for s in wrong)}: give {needed}")


def _copy(source: nn.Module, target: nn.Module, name: str, skipped: str | None = None) -> None:
    """Copy the weights of `source`, all but those with `skipped` in their names."""

    def kept(module: nn.Module) -> dict[str, torch.Tensor]:
        return {
            key: value
            for key, value in module.state_dict().items()
            if not key.endswith(COUNTER) and not (skipped and skipped in key)
        }

    theirs, ours = kept(source), kept(target)
    for key in theirs.keys() & ours.keys():
        if key.endswith("wpe.weight"):  # captions are read at the first 77 positions, however many there are
            rows = min(len(theirs[key]), len(ours[key]))
            theirs[key] = torch.cat([theirs[key][:rows], ours[key][rows:]])
    other = sorted(
        key for key in theirs.keys() | ours.keys()
        if key not in theirs or key not in ours or theirs[key].shape != ours[key].shape
    )  # fmt: skip
    if other:
        raise UserError(f"--init {name} is a model of other parts than this run's ({', '.join(other[:3])})")
    target.load_state_dict(theirs, strict=False)


def _refuse_activation(name: str, vision: Any) -> None:
    if hidden_act(vision.blocks[0]) != "gelu":
        raise UserError(f"--init {name} has another activation than GELU, which this run's ViT has")
