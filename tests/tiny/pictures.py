"""Pictures, as PIL images and as the bytes of a file."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of `image` as a file of this kind; `options` as in `Image.save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def numbered(number: int, kind: str = "PNG", **options) -> bytes:
    """A file whose pixels are its number, 0 to 65,535, to be found next to the caption of that number."""
    return encoded(Image.new("RGB", (16, 16), (number % 256, number // 256, 7)), kind, **options)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes, edges and some texture, as a photograph has them."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells in (3, 9, 27, 81):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        image += np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC), float) / cells**0.7
    image[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 30)
    return Image.fromarray((image * 255 / image.max()).astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Every channel of every pixel is drawn from 0 to 255."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def speckled(colour: tuple[int, int, int], side: int, deviation: float, random: np.random.Generator) -> Image.Image:
    """A square of one colour with normal noise of this standard deviation."""
    pixels = random.normal(colour, deviation, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, **options) -> None:
    """Save `image`; make the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def as_pixels(image: Image.Image, generator: torch.Generator | None = None) -> torch.Tensor:
    """The pixels as they are, float32[3, H, W] from 0 to 255: a transform that a loader can use."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
