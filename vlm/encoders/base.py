"""What the bridge and the probes need of any vision encoder: patch tokens, and how pixels are prepared for it."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from vlm.encoders.config import PixelConfig
from vlm.errors import UserError
from vlm.images import EvalTransform

Config = TypeVar("Config", bound=PixelConfig)
Same = TypeVar("Same", bound="VisionEncoder")


class VisionEncoder(nn.Module, Generic[Config]):
    """An image encoder that gives patch tokens. Its `config` is a `PixelConfig`, and may have more fields.

    An encoder with a text tower also embeds captions: the last four methods. All that read pixels or texts raise a
    UserError if they are given something else than a batch of at least one.
    """

    config: Config

    @property
    def vision(self) -> Any:
        """The ViT itself, a timm or a Hugging Face module."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Of a patch token."""
        raise NotImplementedError

    @property
    def heads(self) -> int:
        """Attention heads of the ViT."""
        raise NotImplementedError

    @property
    def transform(self) -> EvalTransform:
        """PIL image -> float32[3, H, W], as this encoder reads it."""
        config = self.config
        return EvalTransform(config.image_size, config.mean, config.std, config.short_side, config.resample)

    @property
    def device(self) -> torch.device:
        return next(self.vision.parameters()).device

    def with_config(self: Same, **changes: Any) -> Same:
        """An encoder with the same weights, not copied, and `changes` to its config."""
        twin = copy.copy(self)
        twin.config = replace(self.config, **changes)
        return twin

    def resized(self: Same, image_size: int) -> Same:
        """An encoder of images of another size: its stored positions are interpolated, as its own code would.

        Raises: UserError if patches do not fill the image.
        """
        raise NotImplementedError

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> patch tokens after the final norm, without CLS, [B, N, width]."""
        raise NotImplementedError

    def layer_tokens(self, pixels: torch.Tensor, layer: int) -> torch.Tensor:
        """All tokens after a block, before the final norm: [B, prefix + N, width]. layer: -1 is the last block."""
        raise NotImplementedError

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> one vector an image, as the encoder's own head reads it: CLS, or pooled."""
        raise NotImplementedError

    @property
    def embed_dim(self) -> int:
        """Of the embeddings of images and captions."""
        raise self._no_text()

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> z_v [B, embed_dim]."""
        raise self._no_text()

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Captions -> z_t [B, embed_dim]. Raises: UserError if they are no list of texts, or there is none."""
        raise self._no_text()

    def predict_text(self, z_v: torch.Tensor) -> torch.Tensor:
        """z_v [B, embed_dim] -> the z_t it predicts; both share one space if there is no predictor."""
        return z_v

    def predict_image(self, z_t: torch.Tensor) -> torch.Tensor:
        """z_t [B, embed_dim] -> the z_v it predicts; both share one space if there is no predictor."""
        return z_t

    def _no_text(self) -> UserError:
        return UserError(
            "this encoder has no text tower: zero-shot, retrieval and backgrounds compare images with captions. Give a "
            "LeVLJEPA encoder, or a whole CLIP or SigLIP checkpoint as hf:NAME"
        )


def checked_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """The same pixels. Raises: UserError unless they are a batch of at least one image."""
    tensor = isinstance(pixels, torch.Tensor)
    if not tensor or pixels.ndim != 4 or not len(pixels) or pixels.shape[1] != 3 or not pixels.is_floating_point():
        given = f"{str(pixels.dtype).removeprefix('torch.')}{list(pixels.shape)}" if tensor else type(pixels).__name__
        raise UserError(
            f"{given} is no batch of pixels float32[B, 3, H, W]: give torch.stack([encoder.transform(image), ...]), at "
            "least one image"
        )
    return pixels


def checked_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list. Raises: UserError for one string, which would be read letter by letter, and for none."""
    listed = [] if isinstance(texts, str | bytes) or not isinstance(texts, Iterable) else list(texts)
    if not listed or not all(isinstance(text, str) for text in listed):
        raise UserError(f"{str(texts)[:80]!r} is no list of captions: give a list of strings, at least one")
    for text in listed:
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate
            raise UserError(f"not valid Unicode text: {text[:80]!a}") from None
    return listed


def checked_layer(layer: int, blocks: int) -> int:
    """A layer as `VisionEncoder.layer_tokens` counts them, from the front: 0 is what goes into the first block.

    Raises: UserError if there is none.
    """
    if not -blocks - 1 <= layer <= blocks:
        raise UserError(f"layer {layer}: give 0 to {blocks} or, from the end, -1 to {-blocks - 1}")
    return blocks + 1 + layer if layer < 0 else layer
