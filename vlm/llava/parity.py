"""Checks that a vision tower gives the features of the encoder that it was made from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from vlm.errors import UserError
from vlm.llava.parts import connector, vision_tower

# What is saved with a VLM to check it by. "pixels": float32[1, 3, H, W]. "tokens": float32[1, N, D], their patch
# tokens: in a VLM that was just assembled the encoder's own, computed by timm; in a folder those of its weights.
Fixture = dict[str, torch.Tensor]


def fixture_pixels(image_size: int) -> torch.Tensor:
    """A smooth test image, float32[1, 3, H, W] in the range of normalised pixels; no random numbers."""
    axis = torch.arange(image_size, dtype=torch.float64) / image_size
    waves = [torch.sin(2 * math.pi * (k * axis[:, None] + (4 - k) * axis[None, :] + k / 3)) for k in (1, 2, 3)]
    return (1.5 * torch.stack(waves)[None]).float()


class _Reached(Exception):
    """Carries the connector's input out of a forward pass that need not go on."""


@torch.no_grad()
def connector_input(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Patch tokens of `pixels` as the model itself hands them to the connector, [B, N, vision width]."""

    def stop(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        raise _Reached(inputs[0])

    hook = connector(model).register_forward_pre_hook(stop)
    try:
        model.get_image_features(pixel_values=pixels.to(model.device))
    except _Reached as reached:
        return reached.args[0]
    finally:
        hook.remove()
    raise RuntimeError("this model gives its connector nothing")


@contextmanager
def whole_convolutions() -> Iterator[None]:
    """Convolutions of float32 in float32 inside. By default cuDNN rounds their inputs to TF32's ten bits."""
    cudnn: Any = torch.backends.cudnn
    # torch before 2.9 has the older switch alone; newer ones refuse to read it once the newer one is used.
    newer = hasattr(cudnn, "conv")
    switch, name = (cudnn.conv, "fp32_precision") if newer else (cudnn, "allow_tf32")
    before = getattr(switch, name)
    setattr(switch, name, "ieee" if newer else False)
    try:
        yield
    finally:
        setattr(switch, name, before)


def stored_fixture(model: LlavaForConditionalGeneration, fixture: Fixture) -> Fixture:
    """The fixture to save: the features of the weights as they are stored, computed in fp32.

    A tower that was rounded to bf16 gives features .2 to .4 % from the encoder's. Against its own features it can be
    checked as closely as one that was not, in whatever precision the folder is opened. What a GPU saved may be opened
    on a CPU, which allows for an error of 0.001: a convolution in TF32 here could be taken for changed weights there.
    """
    tower: torch.nn.Module = vision_tower(model)
    dtype = vision_tower(model).dtype
    tower.float()
    with whole_convolutions():
        tokens = connector_input(model, fixture["pixels"]).cpu().contiguous()
    tower.to(dtype)  # loses nothing: each value came from this dtype
    return {**fixture, "tokens": tokens}


def check_parity(model: LlavaForConditionalGeneration, fixture: Fixture) -> float:
    """Relative RMS error of the model's patch tokens against the fixture's.

    Raises: UserError if it is above 0.001 in fp32 (0.005 on a GPU, whose convolutions may use TF32), 0.05 otherwise.
    """
    expected = fixture["tokens"]
    tokens = connector_input(model, fixture["pixels"]).float().cpu()
    error = math.inf
    if tokens.shape == expected.shape:
        error = ((tokens - expected).square().mean() / expected.square().mean()).sqrt().item()
    exact = vision_tower(model).dtype == torch.float32
    allowed = (1e-3 if model.device.type == "cpu" else 5e-3) if exact else 0.05
    if not error <= allowed:  # also if it is NaN
        raise UserError(
            f"the vision tower gives other features than the encoder it was made from (relative error {error:.2g}, "
            f"allowed {allowed:g}): its weights were changed, or transformers is older than 5.18"
        )
    return error
