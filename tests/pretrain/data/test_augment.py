"""Crops and colours: sizes, what each may do, torchvision and PIL as references, draws that follow from the seed."""

import pytest
import torch
from PIL import Image, ImageFilter
from tiny.pictures import noise
from torchvision.transforms.v2 import functional

from pretrain.config import from_preset
from pretrain.data import augment
from pretrain.data.augment import augmentation
from vlm.pixels import levels_of


def crops(seed, image=None):
    transform = augmentation(from_preset("tiny", objective="levljepa-plus"))
    return transform(image or noise(64, 64), torch.Generator().manual_seed(seed))


def test_views_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = crops(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, crops(5)))
    assert not torch.equal(first[0], crops(6)[0])
    global_crops, local_crops = first
    assert global_crops.shape == (2, 3, 48, 48) and local_crops.shape == (4, 3, 24, 24)
    assert global_crops.dtype == local_crops.dtype == torch.uint8
    views = [*global_crops, *local_crops]
    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i] if a.shape == b.shape)


def test_only_the_second_global_view_is_solarised():
    """A white picture stays white under every other operation of DINO's; solarising makes it black."""
    white = Image.new("RGB", (64, 64), "white")
    views = [crops(seed, white) for seed in range(60)]
    levels = [torch.cat([part.float().mean((1, 2, 3)) for part in view]) for view in views]
    dark = (torch.stack(levels) < 100).float().mean(0)
    assert dark[[0, 2, 3, 4, 5]].tolist() == [0] * 5 and 0.08 < dark[1] < 0.35


@pytest.mark.parametrize(
    ("image_size", "patch_size", "local", "enlarges"), [(224, 16, 96, 1.9166), (48, 12, 24, 2.2361), (16, 8, 8, 2.2361)]
)
def test_local_crops_are_whole_patches_and_are_never_blown_up(image_size, patch_size, local, enlarges):
    config = from_preset("tiny", objective="levljepa-plus", image_size=image_size, patch_size=patch_size)
    assert config.local_size == local
    assert augmentation(config).enlarges == pytest.approx(enlarges, abs=1e-4)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.02, 0.1])
def test_a_turned_hue_is_torchvisions(turn):
    pixels = levels_of(noise(64, 64))[:3].clone()
    pixels[:, :4] = 7  # grey
    pixels[:, 5, :9] = torch.tensor([200, 200, 10], dtype=torch.uint8)[:, None]  # two channels are the largest
    ours = augment.hue_turned(pixels.float(), turn).round()
    assert (ours - functional.adjust_hue(pixels, turn)).abs().max() <= 1
    assert torch.equal(augment.grey(pixels.float()).round()[0, :4], torch.full((4, 64), 7.0))


def test_colours_change_within_their_bounds():
    grey = torch.full((3, 2, 2), 100.0)
    drawn = [augment.jittered(grey, (0.2, 0, 0, 0), torch.Generator().manual_seed(seed))[0, 0, 0] for seed in range(99)]
    assert min(drawn) == pytest.approx(80, abs=2) and max(drawn) == pytest.approx(120, abs=2)
    red = torch.tensor([200.0, 50.0, 50.0])[:, None, None]
    saturated = [augment.jittered(red, (0, 0, 0.5, 0), torch.Generator().manual_seed(s))[:, 0, 0] for s in range(50)]
    spread = [float(colour.max() - colour.min()) for colour in saturated]
    assert min(spread) == pytest.approx(75, abs=8) and max(spread) == pytest.approx(225, abs=20)


def test_crops_are_of_the_share_and_shape_that_was_asked_for():
    boxes = [augment.crop_box(90, 120, (0.4, 0.8), torch.Generator().manual_seed(seed)) for seed in range(300)]
    shares = [height * width / (90 * 120) for _, _, height, width in boxes]
    assert min(shares) == pytest.approx(0.4, abs=0.02) and max(shares) == pytest.approx(0.8, abs=0.02)
    assert all(0 <= top <= 90 - height and 0 <= left <= 120 - width for top, left, height, width in boxes)
    assert all(0.73 < width / height < 1.36 for _, _, height, width in boxes)
    assert augment.crop_box(10, 300, (0.9, 1.0), torch.Generator()) == (0, 143, 10, 13)  # no crop of the share fits
    assert augment.crop_box(300, 10, (0.9, 1.0), torch.Generator()) == (143, 0, 13, 10)


def test_a_view_is_its_crop_resized_within_levels_of_pil():
    """Of a smooth picture, flipped or not; noise would show the last bits of the filter's weights alone."""
    image = noise(400, 300).filter(ImageFilter.GaussianBlur(3))
    view = augment.View(64, (0.5, 1.0), (0, 0, 0, 0), p_jitter=0, p_grey=0)
    for seed in range(5):
        top, left, height, width = augment.crop_box(300, 400, (0.5, 1.0), torch.Generator().manual_seed(seed))
        crop = image.crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.BICUBIC)
        expected = levels_of(crop)[:3].int()
        ours = view(levels_of(image), torch.Generator().manual_seed(seed)).int()
        distances = [float((ours - other).abs().float().mean()) for other in (expected, expected.flip(2))]
        assert min(distances) < 0.5 < max(distances)
