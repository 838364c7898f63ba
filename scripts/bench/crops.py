"""Random crops as pretraining makes them, against torchvision's on PIL images. See scripts/bench_loader.py."""

import math
import random
from collections.abc import Callable
from functools import partial
from statistics import mean
from time import thread_time

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from bench.harness import Goals, header, row, seconds, take_turns
from pretrain.config import from_preset
from pretrain.data.augment import CropJitter, MultiCrop, View
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.images import decode
from vlm.pixels import interpolate_uint8, levels_of, to_tensor

NEEDED = 1.5  # times torchvision's images a second, decoding included


def published(view: View) -> v2.Compose:
    """The view as the published codes make it: by torchvision on PIL images, to normalised float32."""
    blur = v2.Lambda(lambda image: image.filter(ImageFilter.GaussianBlur(view.blur_pixel * random.uniform(0.1, 2))))
    steps = [
        v2.RandomResizedCrop(view.size, scale=view.scale, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*view.jitter)], p=view.p_jitter),
        v2.RandomGrayscale(p=view.p_grey),
        v2.RandomApply([blur], p=view.p_blur),
        v2.RandomSolarize(threshold=128, p=view.p_solarise),
        v2.Lambda(partial(to_tensor, mean=CLIP_MEAN, std=CLIP_STD)),
    ]
    return v2.Compose(steps)


def report_crops(size: int, files: list[bytes], rounds: int, goals: Goals) -> None:
    """Print images/s of crop-jitter and of DINO's six crops, theirs and ours; all from reduced-size decoding."""
    print("\ncrops of 1024 x 768 JPEGs on 1 thread; ours are bytes, which the device normalises")
    header("augmentation", "torchvision on PIL, images/s", "ours, images/s", "ratio", "filters differ (levels)")
    local = from_preset("base", objective="levljepa-plus", image_size=size, patch_size=1).local_size
    one, several = CropJitter(size), MultiCrop(size, local)
    views_of_several = [*several.global_views, *[several.local_view] * MultiCrop.LOCAL]
    for name, ours, views in (("crop-jitter", one, [one.view]), ("dino", several, views_of_several)):
        fit, theirs = math.ceil(size * ours.enlarges), [published(view) for view in views]
        slow, fast, differences = _times(files * rounds, fit, ours, theirs, views[-1].size)
        # Means: what is rare, such as jitter, counts by its share.
        ratio = goals.at_least(mean(slow) / mean(fast), NEEDED)
        row(name, f"{1 / mean(slow):.0f}", f"{1 / mean(fast):.0f}", ratio, f"{mean(differences):.3f}")


def _times(
    files: list[bytes], fit: int, ours: Callable, theirs: list[v2.Compose], size: int
) -> tuple[list[float], list[float], list[float]]:
    """CPU seconds of theirs and of ours for each file, and the difference of their filters at the view's size."""
    slow: list[float] = []
    fast: list[float] = []
    differences: list[float] = []
    generator = torch.Generator().manual_seed(0)
    for data in files:

        def by_torchvision(data=data) -> None:
            image = decode(data, fit=fit)
            for view in theirs:
                view(image)

        def by_us(data=data) -> None:
            ours(decode(data, fit=fit), generator)

        ways = {"slow": partial(seconds, by_torchvision, thread_time), "fast": partial(seconds, by_us, thread_time)}
        times = take_turns(ways, 1)
        slow += times["slow"]
        fast += times["fast"]
        differences.append(difference_of_filters(decode(data, fit=fit), size))
    return slow, fast, differences


def difference_of_filters(image: Image.Image, size: int) -> float:
    """Mean absolute difference, in levels, between torch's filter and PIL's on the whole image."""
    by_pil = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    ours = interpolate_uint8(levels_of(image), size=(size, size)).permute(1, 2, 0).numpy().astype(np.float32)
    return float(np.abs(by_pil - ours).mean())
