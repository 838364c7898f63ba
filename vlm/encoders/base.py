"""What the bridge needs of any vision encoder: a timm ViT, and how pixels are prepared for it."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vlm.images import EvalTransform, eval_transform


@dataclass(frozen=True)
class PixelConfig:
    """Sizes of the square image and of its square patches, and the statistics that pixels are normalised with."""

    image_size: int
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class VisionEncoder(nn.Module):
    """A ViT that gives patch tokens. Its `config` has `PixelConfig`'s fields, and may have more."""

    vision: VisionTransformer
    config: PixelConfig

    @property
    def transform(self) -> EvalTransform:
        return eval_transform(self.config.image_size, self.config.mean, self.config.std)

    @property
    def device(self) -> torch.device:
        return self.vision.cls_token.device

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> patch tokens after the final norm, without CLS, [B, N, vision width]."""
        return self.vision.forward_features(pixels)[:, 1:]
