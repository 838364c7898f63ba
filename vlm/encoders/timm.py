"""ViTs of timm's by name, as vision encoders, with weights from a safetensors file or the hub."""

import copy
import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from vlm.encoders.base import VisionEncoder, checked_pixels
from vlm.encoders.config import PixelConfig
from vlm.encoders.naming import parse_timm
from vlm.encoders.timm_vit import stock_class, timm_layer_tokens
from vlm.encoders.weights import load_exactly, read_weights
from vlm.errors import UserError
from vlm.hub import check_repository, snapshot
from vlm.integrity import verify

WEIGHTS = "model.safetensors"


class TimmEncoder(VisionEncoder[PixelConfig]):
    """A ViT with the sizes, statistics and filter of timm's data config; images are squashed whole, never cropped.

    A filter that `PixelConfig` does not have, as lanczos, becomes bicubic.
    """

    def __init__(self, vision: VisionTransformer):
        super().__init__()
        pixels = resolve_model_data_config(vision)
        size, patch_size = vision.patch_embed.img_size[0], vision.patch_embed.patch_size[0]
        resample = pixels["interpolation"] if pixels["interpolation"] in ("bicubic", "bilinear") else "bicubic"
        mean, std = tuple(pixels["mean"]), tuple(pixels["std"])
        self._vit, self.config = vision, PixelConfig(size, patch_size, mean, std, resample=resample)

    @property
    def vision(self) -> VisionTransformer:
        return self._vit

    @property
    def width(self) -> int:
        return self._vit.embed_dim

    @property
    def heads(self) -> int:
        block: Any = self._vit.blocks[0]
        return block.attn.num_heads

    def resized(self, image_size: int) -> "TimmEncoder":
        twin, vision = copy.copy(self), copy.deepcopy(self._vit)
        twin.config = self.config.at_size(image_size)
        vision.set_input_size(img_size=(image_size, image_size))  # interpolates the positions
        twin._modules = {**self._modules, "_vit": vision.requires_grad_(False)}
        return twin

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._vit.forward_features(checked_pixels(pixels))[:, self._vit.num_prefix_tokens :]

    def layer_tokens(self, pixels: torch.Tensor, layer: int) -> torch.Tensor:
        return timm_layer_tokens(self._vit, checked_pixels(pixels), layer)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._vit(checked_pixels(pixels))


def timm_encoder(name: str) -> TimmEncoder:
    """Open NAME, with the hub's weights, or NAME@FILE.safetensors: frozen, in eval mode, fp32, on the CPU.

    NAME@384 and NAME@384@FILE.safetensors read images of 384 pixels.
    Raises: UserError if there is no such ViT, no stock class can hold it (before anything is downloaded), or its
    weights do not fit.
    """
    architecture, size, file = parse_timm(name)
    with torch.device("meta"):
        stock_class(_new_vit(architecture, seed=0))
    vision = _new_vit(architecture, seed=0)
    path = Path(file) if file else _download(architecture, vision)
    verify(path.parent)
    weights = read_weights(path, f"give the {WEIGHTS} of a timm {architecture}")
    weights = {key: value for key, value in weights.items() if not key.startswith("head.")}  # the classifier
    load_exactly(vision, weights, path, f"timm's {architecture}")
    return _frozen(TimmEncoder(vision), size)


def random_timm_encoder(name: str, seed: int) -> TimmEncoder:
    """Build the encoder of `timm_encoder(name)` with random weights, which depend on `seed` alone."""
    architecture, size, _ = parse_timm(name)
    vision = _new_vit(architecture, seed)
    stock_class(vision)
    return _frozen(TimmEncoder(vision), size)


def check_timm(name: str, weights: bool) -> None:
    """Say early what `timm_encoder` would: nothing is drawn or downloaded. weights: whether they must be there.

    Raises: UserError if there is no such ViT, no stock class can hold it, or its weights are nowhere.
    """
    architecture, _, file = parse_timm(name)
    with torch.device("meta"):
        vision = _new_vit(architecture, seed=0)
    stock_class(vision)
    if not weights:
        return
    if file and not Path(file).is_file():
        raise UserError(f"timm:{name}: {file} does not exist: give the {WEIGHTS} of a timm {architecture}")
    if not file:
        check_repository(_repository(architecture, vision), "model", _otherwise(architecture))


def _frozen(encoder: TimmEncoder, size: int | None) -> TimmEncoder:
    encoder = encoder if size is None else encoder.resized(size)
    return encoder.eval().requires_grad_(False)


def _new_vit(name: str, seed: int) -> Any:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        advice = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models('vit_*')"
        raise UserError(f"timm has no model {name!r}: {advice}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return timm.create_model(name, num_classes=0)
    except RuntimeError as error:  # a tag that names no weights
        raise UserError(f"timm: {error} See timm.list_pretrained('{name.partition('.')[0]}*')") from None


def _download(name: str, vision: VisionTransformer) -> Path:
    """The weights in the hub's cache, fetched if they are not there yet."""
    repository = _repository(name, vision)
    path = snapshot(repository, [WEIGHTS], "model", _otherwise(name)) / WEIGHTS
    if not path.exists():
        raise UserError(f"{repository} has no {WEIGHTS}: {_otherwise(name)}")
    return path


def _repository(name: str, vision: VisionTransformer) -> str:
    """The hub's repository of a ViT's weights. Raises: UserError if timm knows none."""
    source: Any = vision.pretrained_cfg  # a dict, which type checkers take for a submodule
    if not source.get("hf_hub_id"):
        raise UserError(f"timm has no weights for {name}: {_otherwise(name)}")
    return source["hf_hub_id"]


def _otherwise(name: str) -> str:
    return f"give timm:{name}@FILE.safetensors, or random:timm:{name} for random weights"
