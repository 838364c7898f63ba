"""The sizes of an encoder, and a LeVLJEPA encoder's `config.json` as the released checkpoint writes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vlm.checked import Fields
from vlm.errors import UserError

if TYPE_CHECKING:  # the defaults below are also those of a command, whose --help must not wait for torch
    import torch

# Mean and standard deviation of pixel values in 0..1, red, green, blue. They travel with an encoder, in its config.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALISATIONS = {"clip": (CLIP_MEAN, CLIP_STD), "imagenet": (IMAGENET_MEAN, IMAGENET_STD)}

# config.json's section -> its key -> our field.
TOWERS = {
    "vision_encoder": {"hidden_size": "vision_width", "num_layers": "vision_layers", "num_heads": "vision_heads"},
    "text_encoder": {
        "hidden_size": "text_width",
        "num_layers": "text_layers",
        "num_heads": "text_heads",
        "vocab_size": "vocab_size",
    },
}
HEADS = ("embed_dim", "projector_width", "projector_depth")
LARGEST_SIZE = 2**31  # of what is compared with the weights
LOGIT_SCALARS = ("logit_scale", "logit_bias")
MODEL_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}  # timm's names, by width


@dataclass(frozen=True)
class PixelConfig:
    """How pixels are prepared for a vision encoder: side of the square image and of its square patches, in pixels, and
    the statistics by which each channel is normalised.

    short_side: None squashes the whole image to the square. A number resizes its shorter side to so many pixels and
    cuts the square from the centre. resample: Pillow's filter, bicubic or bilinear.
    """

    image_size: int = 224
    patch_size: int = 16
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    short_side: int | None = None
    resample: str = "bicubic"

    @property
    def patches(self) -> int:
        """Of an image."""
        return (self.image_size // self.patch_size) ** 2

    def at_size(self, image_size: int) -> PixelConfig:
        """The same preparation of a larger or smaller image; `UserError` if patches do not fill it."""
        if image_size < self.patch_size or image_size % self.patch_size:
            low = max(1, image_size // self.patch_size) * self.patch_size
            near = f"{low} or {low + self.patch_size}"
            raise UserError(
                f"--image-size {image_size}: this encoder's patches are {self.patch_size} wide, give {near}"
            )
        short_side = self.short_side and round(self.short_side * image_size / self.image_size)
        return replace(self, image_size=image_size, short_side=short_side)

    def resized_by(self, way: str) -> PixelConfig:
        """Prepare by another way: `squash`, or `crop`, which resizes the shorter side to 256 for a square of 224."""
        return replace(self, short_side=round(self.image_size * 256 / 224) if way == "crop" else None)


@dataclass(frozen=True)
class EncoderConfig(PixelConfig):
    """Sizes of both towers and their heads. Defaults are those of the released ViT-B.

    logit_scale, logit_bias: what CLIP's and SigLIP's objectives learn beside the weights, named as in transformers'
    CLIPModel and SiglipModel: the logit of a pair is exp(logit_scale) * cosine(z_v, z_t) + logit_bias. Else None.
    training: settings of the run that trained it.
    """

    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocab_size: int = 50257
    positions: int = 1024
    embed_dim: int = 256
    projector_width: int = 2048
    projector_depth: int = 4
    logit_scale: float | None = None
    logit_bias: float | None = None
    training: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        """The released `config.json`, plus image and patch size, pixel statistics and, if any, the logits' scalars."""
        towers = {section: {key: getattr(self, name) for key, name in keys.items()} for section, keys in TOWERS.items()}
        size = MODEL_SIZES.get(self.vision_width, "custom")
        towers["vision_encoder"]["architecture"] = f"vit_{size}_patch{self.patch_size}_{self.image_size}"
        towers["vision_encoder"] |= {"image_size": self.image_size, "patch_size": self.patch_size}
        towers["text_encoder"]["architecture"] = "gpt2"
        heads = {name: getattr(self, name) for name in HEADS}
        scalars = {name: getattr(self, name) for name in LOGIT_SCALARS if getattr(self, name) is not None}
        pixels = {"normalization": {"mean": list(self.mean), "std": list(self.std)}}
        return {
            "model_type": "levljepa",
            "model_size": size,
            **towers,
            **heads,
            **scalars,
            **pixels,
            "training": self.training,
        }

    @classmethod
    def from_json(
        cls,
        config: Any,
        vision: dict[str, torch.Tensor],
        text: dict[str, torch.Tensor],
        heads: int | None = None,
        where: str = "config.json",
    ) -> EncoderConfig:
        """Read a released or our own `config.json`; the weights tell every size that it does not have.

        Only the number of attention heads has no trace in the weights. heads: of both towers, if the config does not
        say; else they are 64 wide, as those of each published size. A config without pixel statistics gets those of
        CLIP: both published training codes use them, although the snippet on the model card shows ImageNet's.
        where: the file, for messages.
        Raises: UserError if a value is of another type, out of bounds, or not that of the weights; LookupError or
        ValueError if a weight is missing or of another shape.
        """
        fields = Fields(config, where)
        patch = vision["encoder.patch_embed.proj.weight"].shape[-1]  # [width, 3, patch, patch]
        patches = vision["encoder.pos_embed"].shape[1] - 1  # [1, CLS + patches, width]
        sizes: dict[str, Any] = sizes_of_weights(vision, text)
        for section, keys in {None: {name: name for name in HEADS}, **TOWERS}.items():
            given = fields if section is None else fields.section(section)
            for key, name in keys.items():
                if name in sizes and key in given.record and given.whole(key, 0, LARGEST_SIZE) != sizes[name]:
                    problem = f"{key} is {given.record[key]}, and the weights have {sizes[name]}"
                    raise UserError(f"{given.where}: the encoder does not fit its config.json, {problem}")
        for section, width in (("vision_encoder", "vision_width"), ("text_encoder", "text_width")):
            name = TOWERS[section]["num_heads"]
            sizes[name] = _heads(fields.section(section), sizes[width], heads)
        sizes |= {name: fields.number(name) for name in LOGIT_SCALARS if name in fields}
        mean, std = CLIP_MEAN, CLIP_STD
        if "normalization" in fields:
            mean, std = pixel_statistics(fields.section("normalization"), "mean", "std")
        training = fields.section("training").record
        return cls(round(patches**0.5) * patch, patch, mean, std, training=training, **sizes)


def pixel_statistics(fields: Fields, mean: str, std: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The values under the keys `mean` and `std`, three each. Raises: UserError if they are none, or std is not > 0."""
    deviations = fields.three_numbers(std)
    if min(deviations) <= 0:
        raise UserError(f"{fields.where}: {std} is {deviations}; each is needed to be above 0")
    return fields.three_numbers(mean), deviations


def sizes_of_weights(vision: dict[str, torch.Tensor], text: dict[str, torch.Tensor]) -> dict[str, int]:
    """Every size of `EncoderConfig` that the weights of both towers tell; `KeyError` if a weight is missing."""
    vocab_size, text_width = text["encoder.wte.weight"].shape
    predictor = [value for key, value in vision.items() if key.startswith("projector.") and value.ndim == 2]
    return {
        "vision_width": vision["encoder.patch_embed.proj.weight"].shape[0],
        "vision_layers": _layers(vision, "encoder.blocks."),
        "text_width": text_width,
        "text_layers": _layers(text, "encoder.h."),
        "vocab_size": vocab_size,
        "positions": text["encoder.wpe.weight"].shape[0],  # [positions, width]
        "embed_dim": vision["pre_proj.3.weight"].shape[0],  # [embed_dim, projector_width]
        "projector_width": vision["pre_proj.0.weight"].shape[0],  # [projector_width, vision width]
        "projector_depth": max(0, len(predictor) - 1),  # hidden layers; the last linear one gives the embedding
    }


def _layers(weights: dict[str, torch.Tensor], prefix: str) -> int:
    """How many blocks there are: "encoder.blocks.11.norm1.weight" is of the twelfth."""
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix)}
    return len(numbers)


def _heads(tower: Fields, width: int, otherwise: int | None) -> int:
    """The attention heads of a tower. otherwise: where config.json does not say."""
    if "num_heads" in tower.record:
        heads = tower.whole("num_heads", 1, width)
    elif otherwise or width % 64 == 0:
        heads = otherwise or width // 64
    else:
        raise UserError(f"config.json does not say how many attention heads the {width} wide tower has: give --heads N")
    if width % heads:
        raise UserError(f"{tower.where}: a width of {width} cannot be divided among {heads} attention heads")
    return heads
