"""What a VLM sees of one picture, as pictures: the pixels after resizing, and the patch tokens made of them."""

import torch
from PIL import Image

from vlm.apps.patch_tokens import vlm_features
from vlm.images import upright_rgb
from vlm.llava.model import VLM

SHOWN_SIDE = 384  # pixels on a page; what is smaller is enlarged without smoothing, so that each pixel can be seen


def seen(vlm: VLM, picture: Image.Image) -> tuple[Image.Image, torch.Tensor]:
    """The picture as the vision tower gets it, 8-bit RGB, and its patch tokens float32[N, D] before the connector."""
    features = vlm_features(vlm, [upright_rgb(picture)])
    levels = (features.shown[0] * 255).round().byte()  # uint8[3, H, W]
    return Image.fromarray(levels.permute(1, 2, 0).numpy()), features.tokens[0]


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture with each pixel repeated a whole number of times, about `SHOWN_SIDE` pixels wide."""
    times = max(1, round(SHOWN_SIDE / picture.width))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
