"""How a Hugging Face model prepares pixels: its own image processor, as a `PixelConfig`."""

import sys
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor

from vlm.checked import Fields
from vlm.distributed import is_main
from vlm.encoders.config import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, PixelConfig, pixel_statistics
from vlm.errors import UserError, one_line

HALF = (0.5, 0.5, 0.5)
# Of a checkpoint without a processor: what those of its family have.
STATISTICS = {
    "clip_vision_model": (CLIP_MEAN, CLIP_STD),
    "siglip_vision_model": (HALF, HALF),
    "vit": (HALF, HALF),
    "dinov2": (IMAGENET_MEAN, IMAGENET_STD),
    "dinov2_with_registers": (IMAGENET_MEAN, IMAGENET_STD),
    "dinov3_vit": (IMAGENET_MEAN, IMAGENET_STD),
}


def read_pixels(folder: Path, kind: str, image_size: Any, patch_size: Any) -> PixelConfig:
    """The preparation that the model's own processor describes.

    kind: `model_type` of the ViT. image_size, patch_size: its own, for a folder without a processor.
    Raises: UserError if it gives anything else than a square of normalised pixels.
    """
    if not all(isinstance(size, int) for size in (image_size, patch_size)):
        raise UserError(f"{folder} reads images of {image_size} in patches of {patch_size}: only squares can be used")
    if not 0 < patch_size <= image_size:
        raise UserError(f"{folder} has patches of {patch_size} pixels and images of {image_size}: no patch fits in")
    if not any((folder / file).exists() for file in ("preprocessor_config.json", "processor_config.json")):
        mean, std = STATISTICS[kind]
        if is_main():
            line = (
                f"{folder} has no preprocessor_config.json: images are squashed to {image_size} pixels and normalised"
            )
            print(f"{line} by {mean} and {std}, as its family's are", file=sys.stderr)
        return PixelConfig(image_size, patch_size, mean, std)
    try:
        given: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True).to_dict()
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        raise UserError(f"{folder}: its image processor cannot be read ({one_line(error)})") from None
    side, short_side = _sides(folder, given)
    if side < patch_size:
        raise UserError(f"{folder}: its processor makes images of {side} pixels, its patches have {patch_size}")
    fields = Fields(given, f"{folder}: its processor")
    if given.get("do_rescale", True) and abs((given.get("rescale_factor") or 1 / 255) * 255 - 1) > 1e-6:
        raise UserError(f"{folder}: its processor multiplies pixels by {given['rescale_factor']}, not by 1/255")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if given.get("do_normalize", True):
        mean, std = pixel_statistics(fields, "image_mean", "image_std")
    resample = {2: "bilinear", 3: "bicubic"}.get(fields.whole("resample", 0, 5))  # as Pillow numbers its filters
    if resample is None:
        raise UserError(f"{folder}: its processor resizes by {Image.Resampling(given['resample']).name.lower()}: "
                        "bicubic and bilinear filters are known")  # fmt: skip
    return PixelConfig(side, patch_size, mean, std, short_side, resample)


def _sides(folder: Path, given: dict) -> tuple[int, int | None]:
    """Side of the square, and the length that the short side is resized to before a square is cut, else None."""
    size, crop = given.get("size") or {}, given.get("crop_size") or {}
    short, square = size.get("shortest_edge"), size.get("height")
    cut = crop.get("height") if given.get("do_center_crop") else None
    if given.get("do_resize", True) and crop.get("height") == crop.get("width"):
        if short and cut and short >= cut and not size.get("longest_edge"):
            return cut, short
        if square and square == size.get("width") and cut in (None, square):
            return square, None
    raise UserError(f"{folder}: its processor gives no plain square (size {size}, crop {crop}): LLaVA needs one size")
