"""Pixels of a stock image processor, with and without it."""

import pytest
import torch
from PIL import Image
from tiny.pictures import photo
from transformers import CLIPImageProcessor, SiglipImageProcessor

from vlm.encoders.config import IMAGENET_MEAN, IMAGENET_STD, PixelConfig
from vlm.images import EvalTransform
from vlm.llava.pixels import image_settings, pixels_of

SIZES = [(90, 50), (50, 91), (36, 36), (32, 32), (20, 17)]  # larger than what is asked for, equal, smaller


def stock(processor, image: Image.Image) -> torch.Tensor:
    return processor(images=[image], return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("short_side", [None, 36, 32])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_our_settings_need_no_processor(short_side, resample, tmp_path):
    config = PixelConfig(32, 8, IMAGENET_MEAN, IMAGENET_STD, short_side, resample)
    CLIPImageProcessor(**image_settings(config)).save_pretrained(tmp_path)
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    transform = pixels_of(processor)
    assert isinstance(transform, EvalTransform)
    for size in SIZES:
        image = photo(*size)
        assert torch.equal(transform(image), stock(processor, image))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_resize": False},
        {"rescale_factor": 1 / 127.5},
        {"do_center_crop": False},  # the size has one side, nothing makes it square
        {"size": {"shortest_edge": 24}},  # padded up to the crop
        {"size": {"height": 32, "width": 40}, "do_center_crop": False},
        {"crop_size": {"height": 32, "width": 24}},
        {"resample": Image.Resampling.NEAREST},
        {"crop_size": None, "do_center_crop": False},
        {"image_mean": 0.5, "image_std": 0.5},
        {"image_mean": [0.5], "image_std": [0.5]},
        {"image_mean": None, "image_std": None, "do_normalize": False},
    ],
)
def test_other_settings_are_the_processors_own(settings):
    ours = image_settings(PixelConfig(32, 8, short_side=36))
    processor = CLIPImageProcessor(**{**ours, **settings})
    transform = pixels_of(processor)
    assert not isinstance(transform, EvalTransform)
    assert torch.equal(transform(photo(90, 50)), stock(processor, photo(90, 50)))


def test_other_processors_are_called():
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    assert not isinstance(pixels_of(processor), EvalTransform)
    assert torch.equal(pixels_of(processor)(photo(90, 50)), stock(processor, photo(90, 50)))
