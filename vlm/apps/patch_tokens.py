"""Patch tokens of any encoder and of a VLM, with the images as they are seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vlm.encoders.base import VisionEncoder
from vlm.llava.model import VLM
from vlm.llava.parity import connector_input


@dataclass(frozen=True)
class Features:
    """Images as a model sees them, and its patch tokens.

    shown: float32[B, 3, H, W] in 0..1. tokens: float32[B, N, D] of N = side * side patches, row by row.
    """

    shown: torch.Tensor
    tokens: torch.Tensor

    @property
    def side(self) -> int:
        """Patches a row, and rows."""
        return round(self.tokens.shape[1] ** 0.5)

    def cosines(self, row: int, column: int) -> torch.Tensor:
        """Cosine of every patch token with one of the first image, float32[B, side, side]."""
        unit = torch.nn.functional.normalize(self.tokens, dim=-1)  # [B, N, D]
        chosen = unit[0, row * self.side + column]  # [D]
        return (unit @ chosen).unflatten(1, (self.side, self.side))


@torch.no_grad()
def encoder_features(encoder: VisionEncoder, images: Sequence[Image.Image]) -> Features:
    """Patch tokens of an encoder, after its final norm, without class and register tokens."""
    pixels = torch.stack([encoder.transform(image) for image in images])
    tokens = [encoder.patch_tokens(each[None].to(encoder.device)).float().cpu() for each in pixels]
    return Features(_shown(pixels, encoder.config.mean, encoder.config.std), torch.cat(tokens))


@torch.no_grad()
def vlm_features(vlm: VLM, images: Sequence[Image.Image]) -> Features:
    """Patch tokens of a VLM as its connector is given them; registers, which come first, are left out."""
    processor: Any = vlm.processor.image_processor
    pixels = processor(images=list(images), return_tensors="pt").pixel_values  # float32[B, 3, H, W]
    vision: Any = vlm.vision_tower.config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens = [connector_input(vlm.model, each[None])[:, -patches:].float().cpu() for each in pixels]
    return Features(_shown(pixels, processor.image_mean, processor.image_std), torch.cat(tokens))


def _shown(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised pixels float32[B, 3, H, W] back in 0..1."""
    centre, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (pixels.float().cpu() * scale + centre).clamp(0, 1)
