"""DINO's crops: sizes, what each may do, and a draw that follows from the generator's seed alone."""

import pytest
import torch
from PIL import Image
from tiny.pictures import noise

from pretrain.config import from_preset
from pretrain.data.augment import augmentation
from vlm.encoders.config import CLIP_MEAN, CLIP_STD


def crops(seed, image=None):
    transform = augmentation(from_preset("tiny", objective="levljepa-plus"), CLIP_MEAN, CLIP_STD)
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
    assert global_crops.dtype == torch.float32
    views = [*global_crops, *local_crops]
    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i] if a.shape == b.shape)


def test_only_the_second_global_view_is_solarised():
    """A white picture stays white under every other operation of DINO's; solarising makes it black."""
    white = Image.new("RGB", (64, 64), "white")
    std = torch.tensor(CLIP_STD)[:, None, None]
    views = [crops(seed, white) for seed in range(60)]
    levels = [torch.cat([(part * std).mean((1, 2, 3)) for part in view]) for view in views]
    dark = (torch.stack(levels) < 0).float().mean(0)  # less than the mean of CLIP's pictures
    assert dark[[0, 2, 3, 4, 5]].tolist() == [0] * 5 and 0.08 < dark[1] < 0.35


@pytest.mark.parametrize(
    ("image_size", "patch_size", "local", "enlarges"), [(224, 16, 96, 1.9166), (48, 12, 24, 2.2361), (16, 8, 8, 2.2361)]
)
def test_local_crops_are_whole_patches_and_are_never_blown_up(image_size, patch_size, local, enlarges):
    config = from_preset("tiny", objective="levljepa-plus", image_size=image_size, patch_size=patch_size)
    assert config.local_size == local
    assert augmentation(config, CLIP_MEAN, CLIP_STD).enlarges == pytest.approx(enlarges, abs=1e-4)
