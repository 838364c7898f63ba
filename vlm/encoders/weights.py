"""Weights in safetensors files: read with clear errors, loaded exactly or not at all."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vlm.errors import UserError
from vlm.reading import check_regular

COUNTER = "num_batches_tracked"  # BatchNorm's, which is not used here


def read_weights(path: Path, advice: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file; `UserError` if it is damaged or missing. advice: what to do if it is missing."""
    check_readable(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {advice}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or download it again") from None


def check_readable(path: Path) -> None:
    """Raises: UserError if a FIFO, a device or a folder stands at `path`; whoever opens it would wait for ever."""
    try:
        check_regular(path)
    except FileNotFoundError:
        pass  # said by who reads it
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def on_disk(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of `module` as files hold them: fp32, without BatchNorm's counters."""
    weights = {key: value for key, value in module.state_dict().items() if not key.endswith(COUNTER)}
    return {key: value.detach().float().cpu().contiguous() for key, value in weights.items()}


def load_exactly(module: nn.Module, weights: dict[str, torch.Tensor], path: Path, architecture: str) -> None:
    """Copy `weights`, which were read from `path`, into `module`. architecture: what `path` should fit, for messages.

    Raises: UserError if a weight is missing, is left over, has another shape, or is not finite.
    """
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{path} does not fit {architecture}: {first}") from None
    masks = (".attn.bias", ".attn.masked_bias")  # GPT-2's causal mask, which older transformers stored
    missing = [key for key in missing if not key.endswith(COUNTER)]
    unexpected = [key for key in unexpected if not key.endswith((COUNTER, *masks))]
    if missing or unexpected:
        raise UserError(f"{path} does not fit {architecture}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{path} holds NaN or infinity: the run that wrote it diverged")
