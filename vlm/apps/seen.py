"""What a VLM sees of a picture: the pixels after resizing, and the patch tokens made of them."""

from typing import Any

import torch
from PIL import Image

from vlm.images import upright_rgb
from vlm.llava.model import VLM
from vlm.llava.parity import connector_input

SHOWN_SIDE = 384  # pixels on a page; what is smaller is enlarged without smoothing, so that each pixel can be seen


def seen(vlm: VLM, picture: Image.Image) -> tuple[Image.Image, torch.Tensor]:
    """The picture as the vision tower gets it, as 8-bit RGB, and its patch tokens float[N, D] before the connector.

    Register tokens, which some towers have, are left out.
    """
    processor = vlm.processor.image_processor
    pixels = processor(images=[upright_rgb(picture)], return_tensors="pt").pixel_values  # float32[1, 3, H, W]
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    levels = ((pixels[0] * std + mean).clamp(0, 1) * 255).round().byte()
    tokens = connector_input(vlm.model, pixels)[0].float().cpu()
    vision: Any = vlm.model.config.vision_config
    patches = (pixels.shape[2] // vision.patch_size) * (pixels.shape[3] // vision.patch_size)
    return Image.fromarray(levels.permute(1, 2, 0).numpy()), tokens[-patches:]  # registers stand in front


def enlarged(picture: Image.Image, side: int = SHOWN_SIDE) -> Image.Image:
    """The picture with each pixel repeated a whole number of times, about `side` pixels wide."""
    times = max(1, round(side / picture.width))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
