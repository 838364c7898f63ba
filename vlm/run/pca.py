"""Patch tokens as colours: similar tokens look alike."""

import numpy as np
import torch

from vlm.errors import UserError


def principal_colours(tokens: torch.Tensor) -> torch.Tensor:
    """Patch tokens float[B, N, D] -> RGB float[B, N, 3] in 0..1: their three principal components over all images.

    Equal colours are similar tokens. Each component is stretched between its 2nd and 98th percentile.
    """
    flat = tokens.flatten(0, 1).cpu().double()  # Apple's GPUs have no float64
    flat = flat - flat.mean(0)
    axes = torch.linalg.svd(flat, full_matrices=False).Vh[:3]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a direction's sign is arbitrary
    components = flat @ axes.T
    low, high = components.quantile(0.02, 0), components.quantile(0.98, 0)
    return ((components - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).view(*tokens.shape[:2], 3)


def pca_rgb(tokens: torch.Tensor) -> np.ndarray:
    """Patch tokens float[N, D] of one square image, row by row -> uint8[h, w, 3] with h = w and h * w = N.

    Raises: UserError if N is no square, as when registers stand among the patches.
    """
    side = round(len(tokens) ** 0.5)
    if side * side != len(tokens):
        raise UserError(f"{len(tokens)} tokens make no square of patches: leave out class and register tokens")
    colours = principal_colours(tokens[None])[0].unflatten(0, (side, side))  # float64[h, w, 3]
    return (colours * 255).round().byte().cpu().numpy()
