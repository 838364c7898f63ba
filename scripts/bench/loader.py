"""JPEGs to tensors: reduced-size against full decoding, threads, the whole loader. See scripts/bench_loader.py."""

import contextlib
import io
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import thread_time
from typing import cast
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageDraw

from bench.crops import report_crops
from bench.harness import Goals, header, median_ratio, row, seconds, take_turns
from bench.settings import LoaderBench
from pretrain.data.augment import Squash
from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from vlm import images
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.images import DRAFT_MARGIN, decode
from vlm.pixels import to_tensor

REFERENCE = "full decode, PIL bicubic"
REDUCED = "reduced decode, PIL bicubic"
TRAINING = "reduced decode, squash"  # torch's bicubic filter: what pretrain/run.py --augmentation squash does
NEEDED = 2.0
BATCH = 32
LEVEL = 255 * float(np.mean(CLIP_STD))  # of 255, in a unit of the normalised tensor


def photograph(seed: int, width: int = 1024, height: int = 768) -> Image.Image:
    """Noise whose amplitude falls as 1/f^1.2 under smoothly varying contrast and tint, and shapes with hard edges."""
    rng = np.random.default_rng([seed, width, height])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def plane(slope: float) -> np.ndarray:  # float64[height, width], standard deviation 1
        noise = np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**slope, (height, width))
        return noise / noise.std()

    contrast = np.exp(0.7 * plane(2))
    grey = 128 + 48 * plane(1.2) * contrast / contrast.mean()
    pixels = np.stack([grey + 16 * plane(2) for _ in range(3)], -1).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    shapes = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = rng.random(4) * (width, height, width / 5, height / 5)
        fill = tuple(int(value) for value in rng.integers(0, 256, 3))
        (shapes.ellipse if rng.random() < 0.5 else shapes.rectangle)((x, y, x + w, y + h), fill=fill)
    return image


def jpeg(image: Image.Image) -> bytes:
    """The image as a JPEG of quality 85."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


Pipeline = Callable[[bytes], torch.Tensor]


def pil_resized(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> torch.Tensor:
    """Squash by PIL's filter and normalise: float32[3, size, size]."""
    return to_tensor(image.resize((size, size), resample), CLIP_MEAN, CLIP_STD)


def pipelines(size: int) -> dict[str, Pipeline]:
    """Name -> function from a JPEG's bytes to float32[3, size, size]; the first is the reference."""
    stock, squash = partial(pil_resized, size=size), Squash(size)
    return {
        REFERENCE: lambda data: stock(decode(data)),
        REDUCED: lambda data: stock(decode(data, fit=size)),
        TRAINING: lambda data: to_tensor(squash(decode(data, fit=size), torch.Generator()), CLIP_MEAN, CLIP_STD),
    }


def seconds_each(functions: Mapping[str, Pipeline], files: list[bytes], rounds: int) -> dict[str, list[float]]:
    """CPU time of every function on every file, rounds * files of each; the functions take turns on each file."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for data in files * rounds:
        ways = {name: partial(seconds, partial(function, data), thread_time) for name, function in functions.items()}
        for name, values in take_turns(ways, 1).items():
            times[name] += values
    return times


def difference(first: Pipeline, second: Pipeline, files: list[bytes]) -> float:
    """Mean absolute difference of two pipelines' tensors, in levels of 255."""
    return levels([(first(data) - second(data)).abs().mean() for data in files])


def levels(differences: Sequence[torch.Tensor]) -> float:
    """The mean of differences between normalised tensors, in levels of 255."""
    return LEVEL * float(torch.stack(list(differences)).mean())


def bilinear(size: int, files: list[bytes]) -> float:
    """A yardstick: by how much PIL's bilinear filter differs from its bicubic one, in levels of 255."""

    def with_bilinear(data: bytes) -> torch.Tensor:
        return pil_resized(decode(data), size, Image.Resampling.BILINEAR)

    return difference(pipelines(size)[REFERENCE], with_bilinear, files)


def report_decoding(size: int, count: int, rounds: int, shape: tuple[int, int], goals: Goals) -> None:
    """Print speed and error of the pipelines on `count` JPEGs of `shape` (width, height)."""
    width, height = shape
    originals = [photograph(seed, width, height) for seed in range(count)]
    files = [jpeg(image) for image in originals]
    functions = pipelines(size)
    reference = functions[REFERENCE]
    times = seconds_each(functions, files, rounds)
    kilobytes = statistics.mean(len(data) for data in files) / 1000
    print(f"\n{width} x {height} JPEGs, {kilobytes:.0f} kB, to {size} x {size}")
    header("1 thread", "images/s", "ratio", "difference (levels of 255)")
    for name, function in functions.items():
        ratio = median_ratio(times[REFERENCE], times[name])
        row(
            name,
            f"{1 / statistics.median(times[name]):.0f}",
            goals.at_least(ratio, NEEDED) if name == TRAINING else f"{ratio:.2f}x",
            f"{difference(reference, function, files):.3f}",
        )
    loss = levels([(pil_resized(image, size) - reference(data)).abs().mean() for image, data in zip(originals, files)])
    print(f"yardsticks: the JPEG's own loss {loss:.3f}, bilinear for bicubic {bilinear(size, files):.3f}")


def report_margins(count: int) -> None:
    """Print the error of half-size decoding, with the result's size chosen to leave each margin."""
    files = [jpeg(photograph(seed)) for seed in range(count)]
    print(f"half-size decoding of 1024 x 768 by margin: pixels kept for one of the result; chosen: {DRAFT_MARGIN}")
    header("margin", "result", "difference", "bilinear for bicubic")
    for margin in (1.0, 1.25, 1.5, 1.75, 2.0, 3.0):
        size = int(384 / margin)
        with patch.object(images, "DRAFT_MARGIN", margin):
            functions = pipelines(size)
            error = difference(functions[REFERENCE], functions[REDUCED], files)
        row(f"{margin:.2f}", size, f"{error:.3f}", f"{bilinear(size, files):.3f}")


def half(number: int, files: list[bytes], size: int) -> None:
    """Decode one worker's share of the images: every second one."""
    function = pipelines(size)[TRAINING]
    for data in files[number::2]:
        function(data)


def report_threads(size: int, files: list[bytes], rounds: int) -> None:
    """Print two Python threads against one and two processes: near the latter, as decoding releases the GIL."""
    share = partial(half, files=files, size=size)
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        mappers: dict[str, Callable] = {"1 thread": map, "2 threads": threads.map, "2 processes": processes.map}
        ways = {name: partial(decode_both_halves, mapper, share) for name, mapper in mappers.items()}
        ways["2 processes"]()  # starts them
        times = take_turns({name: partial(seconds, way) for name, way in ways.items()}, rounds)
    load = os.getloadavg()[0]
    print(f"\n{os.cpu_count()} CPUs, load {load:.1f} (above 1: busy with other work, which caps the gain)")
    header("workers", "images/s", "ratio")
    for name, values in times.items():
        row(name, f"{len(files) / statistics.median(values):.0f}", f"{median_ratio(times['1 thread'], values):.2f}x")


def decode_both_halves(mapper: Callable, share: Callable[[int], None]) -> None:
    list(mapper(share, range(2)))


def report_loader(size: int, files: list[bytes], duration: float) -> None:
    """Print the samples/s that CaptionBatches keeps up for `duration` seconds, the first batches left out."""
    print(f"\nCaptionBatches, batches of {BATCH} from 4 tars of {len(files) * 4} samples")
    header("workers", "samples/s")
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(4):
            write_tar(Path(folder) / f"{shard:06d}.tar", files * 4)
        data = open_captions(folder, cache=Path(folder) / "cache")
        for workers in (0, 2):
            loader = CaptionBatches(data, Squash(size), BATCH, workers=workers, fit=size)
            with contextlib.closing(cast(Generator, iter(loader))) as batches:  # a generator, declared as an iterator
                for _ in range(4 + 2 * workers):
                    next(batches)
                start, samples = time.perf_counter(), 0
                while time.perf_counter() - start < duration:
                    samples += len(next(batches)["ids"])
                row(workers, f"{samples / (time.perf_counter() - start):.0f}")


def write_tar(path: Path, files: list[bytes]) -> None:
    """Write a WebDataset shard of the JPEGs, all with one caption."""
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(files):
            for suffix, content in (("jpg", data), ("txt", b"a drawing of noise and shapes")):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def run(settings: LoaderBench) -> Goals:
    """Measure what the settings ask for, print the tables, and return the verdicts."""
    torch.set_num_threads(1)
    goals = Goals()
    if settings.margins:
        report_margins(settings.images)
        return goals
    for shape in ((1024, 768), (1023, 767)):
        report_decoding(settings.image_size, settings.images, settings.rounds, shape, goals)
    files = [jpeg(photograph(seed)) for seed in range(settings.images)]
    report_crops(settings.image_size, files, settings.rounds, goals)
    report_threads(settings.image_size, files, settings.rounds)
    report_loader(settings.image_size, files, settings.seconds)
    return goals
