"""Levels as they lie in memory, filters beside PIL's, normalised values."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny.pictures import photo

from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.pixels import interpolate_uint8, levels_of, resize_uint8, resized_image, to_tensor


@pytest.mark.parametrize(("width", "height", "levels"), [(300, 200, 1), (50, 90, 4)])
def test_resize_uint8_is_near_pil(width, height, levels):
    image = photo(width, height)
    expected = np.asarray(image.resize((48, 64), Image.BICUBIC), int).transpose(2, 0, 1)
    got = resize_uint8(image, 64, 48)
    assert tuple(got.shape) == (3, 64, 48)
    difference = np.abs(expected - got.numpy())
    assert difference.max() <= levels
    assert difference.mean() < 0.05 * levels


def test_levels_are_read_in_place_or_of_several_blocks_copied(tmp_path):
    photo(40, 30).save(tmp_path / "photo.png")
    for image in (photo(40, 30), Image.open(tmp_path / "photo.png"), photo(40, 30).crop((3, 4, 30, 20))):
        levels, expected = levels_of(image), np.asarray(image).transpose(2, 0, 1)
        assert levels.shape == (4, image.height, image.width) and levels.stride() == (1, 4 * image.width, 4)
        del image  # the levels keep its memory
        assert (levels[:3].numpy() == expected).all()
    large = photo(400, 300).resize((2500, 2000))  # above PIL's 16 MB a block
    assert levels_of(large).shape == (3, 2000, 2500)
    three = torch.from_numpy(np.array(large)).permute(2, 0, 1)
    assert torch.equal(interpolate_uint8(levels_of(large), size=(64, 48)), interpolate_uint8(three, size=(64, 48)))
    small = photo(400, 300)
    three = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    for mode in ("bicubic", "bilinear"):
        for size in ((64, 48), (500, 700)):
            assert torch.equal(
                interpolate_uint8(levels_of(small), mode, size=size), interpolate_uint8(three, mode, size=size)
            )


def test_an_image_of_the_size_asked_for_is_what_the_filter_makes_of_it():
    image = photo(20, 10)
    filtered = interpolate_uint8(levels_of(image), size=(10, 20))
    assert torch.equal(resize_uint8(image, 10, 20), filtered)


def test_a_resized_image_is_what_the_filter_gives():
    for image in (photo(40, 30), photo(400, 300).resize((2500, 2000))):  # in place, and copied
        expected = interpolate_uint8(levels_of(image), size=(20, 25)).permute(1, 2, 0).numpy()
        resized = resized_image(image, size=(20, 25))
        assert resized.mode == "RGB" and (np.asarray(resized) == expected).all()
        resized.putpixel((0, 0), (1, 2, 3))
        assert resized.getpixel((0, 0)) == (1, 2, 3)


def test_to_tensor_takes_images_and_uint8():
    image = photo(20, 10)
    expected = (np.asarray(image, np.float64).transpose(2, 0, 1) / 255 - np.reshape(CLIP_MEAN, (3, 1, 1))) / np.reshape(
        CLIP_STD, (3, 1, 1)
    )
    for pixels in (image, resize_uint8(image, 10, 20)):
        assert np.allclose(to_tensor(pixels, CLIP_MEAN, CLIP_STD).numpy(), expected, atol=1e-5)
