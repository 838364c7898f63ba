"""Checks that a vision tower gives the features of the encoder that it was made from."""

import math

import torch
from transformers import LlavaForConditionalGeneration

from vlm.errors import UserError
from vlm.llava.parts import connector, vision_tower

# What is saved with a VLM to check it by. "pixels": float32[1, 3, H, W]. "tokens": float32[1, N, D], the encoder's own
# patch tokens of these pixels, computed by timm when the VLM was assembled.
Fixture = dict[str, torch.Tensor]


def fixture_pixels(image_size: int) -> torch.Tensor:
    """A smooth test image, float32[1, 3, H, W] in the range of normalised pixels; no random numbers."""
    axis = torch.arange(image_size, dtype=torch.float64) / image_size
    waves = [torch.sin(2 * math.pi * (k * axis[:, None] + (4 - k) * axis[None, :] + k / 3)) for k in (1, 2, 3)]
    return (1.5 * torch.stack(waves)[None]).float()


@torch.no_grad()
def connector_input(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Patch tokens of `pixels` as the model itself hands them to the connector, [B, N, vision width]."""
    seen: list[torch.Tensor] = []
    hook = connector(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.get_image_features(pixel_values=pixels.to(model.device))
    finally:
        hook.remove()
    return seen[0]


def check_parity(model: LlavaForConditionalGeneration, fixture: Fixture) -> float:
    """Relative RMS error of the model's patch tokens against the encoder's own.

    Raises: UserError if it is above 0.001 in fp32, or 0.05 in another dtype.
    """
    expected = fixture["tokens"]
    tokens = connector_input(model, fixture["pixels"]).float().cpu()
    error = math.inf
    if tokens.shape == expected.shape:
        error = ((tokens - expected).square().mean() / expected.square().mean()).sqrt().item()
    allowed = 1e-3 if vision_tower(model).dtype == torch.float32 else 0.05
    if not error <= allowed:  # also if it is NaN
        raise UserError(
            f"the vision tower gives other features than the encoder it was made from (relative error {error:.2g}, "
            f"allowed {allowed:g}): its weights were changed, or transformers is older than 5.18"
        )
    return error
