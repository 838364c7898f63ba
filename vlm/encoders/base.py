"""What the bridge and the probes need of any vision encoder: a timm ViT, and how pixels are prepared for it."""

import copy
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vlm.encoders.config import PixelConfig
from vlm.images import EvalTransform

Config = TypeVar("Config", bound=PixelConfig)
Same = TypeVar("Same", bound="VisionEncoder")


class VisionEncoder(nn.Module, Generic[Config]):
    """A ViT that gives patch tokens. Its `config` is a `PixelConfig`, and may have more fields."""

    config: Config

    @property
    def vision(self) -> VisionTransformer:
        """The ViT itself."""
        raise NotImplementedError

    @property
    def transform(self) -> EvalTransform:
        """PIL image -> float32[3, H, W], as this encoder reads it."""
        return EvalTransform(self.config.image_size, self.config.mean, self.config.std)

    @property
    def device(self) -> torch.device:
        return next(self.vision.parameters()).device

    def with_config(self: Same, **changes: Any) -> Same:
        """An encoder with the same weights, not copied, and `changes` to its config."""
        twin = copy.copy(self)
        twin.config = replace(self.config, **changes)
        return twin

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> patch tokens after the final norm, without CLS, [B, N, vision width]."""
        return self.vision.forward_features(pixels)[:, 1:]
