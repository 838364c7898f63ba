"""Between our description of pixels and the image processor of a stock LLaVA: the same numbers in both directions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BaseImageProcessor, CLIPImageProcessor

from vlm.encoders.config import PixelConfig
from vlm.images import EvalTransform

FILTERS = {int(Image.Resampling[name.upper()]): name for name in ("bicubic", "bilinear")}


def image_settings(config: PixelConfig) -> dict[str, Any]:
    """What transformers' CLIP image processor must be told to prepare pixels as `config` says."""
    square = {"height": config.image_size, "width": config.image_size}
    return {
        "size": {"shortest_edge": config.short_side} if config.short_side else square,
        "crop_size": square,
        "do_center_crop": config.short_side is not None,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "resample": int(Image.Resampling[config.resample.upper()]),
    }


def pixels_of(processor: BaseImageProcessor) -> Callable[[Image.Image], torch.Tensor]:
    """RGB image -> float32[3, H, W], the processor's own numbers to the bit.

    Half of the processor's time is Python, in which threads wait for each other. `EvalTransform` has next to none: it
    takes over where the processor's settings are all among those that `image_settings` writes. Any other processor is
    called itself.
    """
    config = _as_config(processor)
    if config is None:
        return lambda image: processor(images=[image], return_tensors="pt")["pixel_values"][0]
    return EvalTransform(config.image_size, config.mean, config.std, config.short_side, config.resample)


def _as_config(processor: BaseImageProcessor) -> PixelConfig | None:
    """What `image_settings` was given for this processor; None if that cannot have been."""
    if type(processor) is not CLIPImageProcessor:
        return None
    settings = processor.to_dict()
    size, crop = (settings[name] or {} for name in ("size", "crop_size"))
    side, short, filter_name = crop.get("height"), size.get("shortest_edge"), FILTERS.get(settings["resample"])
    mean, std = settings["image_mean"], settings["image_std"]
    by_channel = all(isinstance(each, Sequence) and len(each) == 3 for each in (mean, std))
    if side is None or filter_name is None or not by_channel:
        return None
    if short is not None and short < side:  # what is resized is padded to the square
        return None
    config = PixelConfig(side, side, tuple(mean), tuple(std), short, filter_name)
    return config if CLIPImageProcessor(**image_settings(config)).to_dict() == settings else None
