"""Training-time image transforms by name: those of the two published codes, and DINO's crops."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from pretrain.config import PretrainConfig
from vlm.images import resize_uint8, to_tensor

BICUBIC = v2.InterpolationMode.BICUBIC


class CropJitter:
    """The second published code's: random resized crop (.8-1), flip, mild colour jitter, rare greyscale."""

    enlarges = 0.8**-0.5  # the smallest crop is stretched by this much, so the image is decoded that much larger

    def __init__(self, image_size: int, mean: tuple, std: tuple):
        steps = [
            v2.RandomResizedCrop(image_size, scale=(0.8, 1.0), interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.02)], p=0.3),
            v2.RandomGrayscale(p=0.05),
            v2.Lambda(partial(to_tensor, mean=mean, std=std)),
        ]
        self.pipeline = v2.Compose(steps)

    def __call__(self, image: Image.Image, generator: torch.Generator) -> torch.Tensor:
        """An RGB image -> float32[3, H, W]; the draw depends on the generator's seed alone."""
        with _drawing_from(generator):
            return self.pipeline(image)


class Squash:
    """The first published code's: resize to a square, no augmentation; evaluation's pixels, by a faster filter."""

    enlarges = 1.0

    def __init__(self, image_size: int, mean: tuple, std: tuple):
        self.image_size, self.mean, self.std = image_size, mean, std

    def __call__(self, image: Image.Image, generator: torch.Generator) -> torch.Tensor:
        """An RGB image -> float32[3, H, W]."""
        return to_tensor(resize_uint8(image, self.image_size, self.image_size), self.mean, self.std)


class MultiCrop:
    """DINO's views (arXiv 2104.14294): 2 global crops (.4-1 of the area) and 4 small local ones (.05-.4).

    Each is flipped, jittered, greyed and blurred on its own; the second global one may be solarised. DINO's blur is
    meant for 224 pixels and scaled to other sizes.
    """

    LOCAL = 4

    def __init__(self, image_size: int, local_size: int, mean: tuple, std: tuple):
        self.enlarges = max(0.4**-0.5, local_size / image_size * 0.05**-0.5)
        blur = v2.Lambda(partial(_blur, pixel=image_size / 224))

        def view(size: int, scale: tuple[float, float], blurred: float, solarised: float = 0.0) -> v2.Compose:
            steps = [
                v2.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([blur], p=blurred),
                v2.RandomSolarize(threshold=128, p=solarised),
                v2.Lambda(partial(to_tensor, mean=mean, std=std)),
            ]
            return v2.Compose(steps)

        self.global_views = view(image_size, (0.4, 1.0), blurred=1.0), view(image_size, (0.4, 1.0), 0.1, solarised=0.2)
        self.local_view = view(local_size, (0.05, 0.4), blurred=0.5)

    def __call__(self, image: Image.Image, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """An RGB image -> float32[2, 3, H, W], float32[4, 3, h, w]; the draws depend on the generator's seed alone."""
        with _drawing_from(generator):
            global_crops = [view(image) for view in self.global_views]
            local_crops = [self.local_view(image) for _ in range(self.LOCAL)]
        return torch.stack(global_crops), torch.stack(local_crops)


def augmentation(config: PretrainConfig, mean: tuple, std: tuple) -> CropJitter | Squash | MultiCrop:
    """The transform that --augmentation names."""
    if config.augmentation == "dino":
        return MultiCrop(config.image_size, config.local_size, mean, std)
    return {"crop-jitter": CropJitter, "squash": Squash}[config.augmentation](config.image_size, mean, std)


def _blur(image: Image.Image, pixel: float) -> Image.Image:
    radius = pixel * torch.empty(()).uniform_(0.1, 2.0).item()
    return image.filter(ImageFilter.GaussianBlur(radius))


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """torchvision draws from the global generator: lend it the sample's seed, then give it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())  # torch.manual_seed also formats stacks, for GPUs
        yield
