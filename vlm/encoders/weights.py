"""Weights from safetensors files: read with care, loaded exactly or not at all."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vlm.errors import UserError


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
