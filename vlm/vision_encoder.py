"""What the bridge needs of any vision encoder: a timm ViT, and how pixels are prepared for it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vlm.errors import UserError
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


def read_weights(path: Path, advice: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; `UserError` where it is damaged, or missing, then with `advice`."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {advice}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or download it again") from None


def load_exactly(module: nn.Module, weights: dict[str, torch.Tensor], path: Path, architecture: str) -> None:
    """Copy `weights`, read from `path`, into `module`; `UserError` unless they are its own, all of them, and finite."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{path} does not fit {architecture}: {first}") from None
    # BatchNorm's counter serves nothing here; GPT-2's causal mask is stored by older transformers.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    unexpected = [
        key for key in unexpected if not key.endswith(("num_batches_tracked", ".attn.bias", ".attn.masked_bias"))
    ]
    if missing or unexpected:
        raise UserError(f"{path} does not fit {architecture}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{path} holds NaN or infinity: the run that wrote it diverged")
