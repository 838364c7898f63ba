"""JPEGs of noise, of the size that photographs of COCO have, for benches that read files."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise_jpegs(folder: Path, count: int) -> list[Path]:
    """Write `count` pictures of coloured noise, 640 x 480; the same ones each time."""
    random = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8))
        path = folder / f"{number}.jpg"
        small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths
