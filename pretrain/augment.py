"""Training-time image transforms of the two published codes, by name."""

import torch
from PIL import Image
from torchvision.transforms import v2

from vlm.images import eval_transform


class CropJitter:
    """The second published code's: random resized crop (.8-1), flip, mild colour jitter, rare greyscale."""

    enlarges = 0.8**-0.5  # the smallest crop is stretched by this much, so the image is decoded that much larger

    def __init__(self, image_size: int, mean: tuple, std: tuple):
        self.pipeline = v2.Compose(
            [
                v2.RandomResizedCrop(image_size, scale=(0.8, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.02)], p=0.3),
                v2.RandomGrayscale(p=0.05),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __call__(self, image: Image.Image, generator: torch.Generator) -> torch.Tensor:
        """An RGB image -> float32[3, H, W]; the draw depends on the generator's seed alone."""
        # torchvision draws from the global generator: lend it the sample's seed, then give it back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            return self.pipeline(image)


class Squash:
    """The first published code's: resize to a square, no augmentation; the same pixels as in evaluation."""

    enlarges = 1.0

    def __init__(self, image_size: int, mean: tuple, std: tuple):
        self.transform = eval_transform(image_size, mean, std)

    def __call__(self, image: Image.Image, generator: torch.Generator) -> torch.Tensor:
        """An RGB image -> float32[3, H, W]."""
        return self.transform(image)


AUGMENTATIONS = {"crop-jitter": CropJitter, "squash": Squash}
