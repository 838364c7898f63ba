"""How fast image-caption pairs become tensors: reduced-size against full decoding, threads, and the whole loader.

It draws its own 1024 x 768 JPEGs (a photograph's spectrum and uneven contrast, hard edges, quality 85) and compares the
pipeline of the published codes (full decode, PIL bicubic, normalise) with this one: on one thread, image by image, in
CPU time, which a busy machine disturbs least. Quality is the mean absolute difference of the final tensors, in levels
of 255, beside two yardsticks: the loss of the JPEG itself, and PIL's bilinear filter in place of its bicubic one.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from tables import verdict

from pretrain.data.augment import Squash
from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from vlm import images
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.errors import run_command
from vlm.images import decode, eval_transform, to_tensor

EXAMPLES = """examples:
  python scripts/bench_loader.py
  python scripts/bench_loader.py --image-size 64 --images 32
  python scripts/bench_loader.py --margins      why 1.5 pixels are kept for each pixel of the result
"""
TRAINING = "reduced decode, squash"  # torch's bicubic filter: what pretrain/run.py --augmentation squash does
NEEDED = 2.0
LEVEL = 255 * float(np.mean(CLIP_STD))  # of 255, in a unit of the normalised tensor


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=48, help="different JPEGs drawn (default 48)")
    parser.add_argument("--rounds", type=int, default=4, help="times each image is timed (default 4)")
    parser.add_argument("--seconds", type=float, default=8, help="of each loader measurement (default 8)")
    parser.add_argument("--margins", action="store_true", help="quality and speed by the margin of reduced decoding")
    return parser.parse_args()


def photograph(seed: int, width: int = 1024, height: int = 768) -> Image.Image:
    """Noise whose amplitude falls as 1/f^1.2 under smoothly varying contrast and tint, and shapes with hard edges."""
    rng = np.random.default_rng([seed, width, height])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def plane(slope: float) -> np.ndarray:
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
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def pipelines(size: int) -> dict:
    """Name -> function from a JPEG's bytes to float32[3, size, size]; the first is the reference."""
    stock, squash = eval_transform(size, CLIP_MEAN, CLIP_STD), Squash(size, CLIP_MEAN, CLIP_STD)
    return {
        "full decode, PIL bicubic": lambda data: stock(decode(data)),
        "reduced decode, PIL bicubic": lambda data: stock(decode(data, fit=size)),
        TRAINING: lambda data: squash(decode(data, fit=size), torch.Generator()),
    }


def seconds_each(functions: dict, files: list[bytes], rounds: int) -> dict[str, np.ndarray]:
    """CPU time of every function on every file, [rounds * files]; the functions take turns on each file."""
    times = {name: [] for name in functions}
    for data in files * rounds:
        for name, function in functions.items():
            start = time.thread_time()
            function(data)
            times[name].append(time.thread_time() - start)
    return {name: np.array(values) for name, values in times.items()}


def difference(first, second, files: list[bytes]) -> float:
    """Mean absolute difference of two pipelines' tensors, in levels of 255."""
    return LEVEL * float(np.mean([(first(data) - second(data)).abs().mean() for data in files]))


def report_decoding(size: int, count: int, rounds: int, width: int, height: int) -> None:
    originals = [photograph(seed, width, height) for seed in range(count)]
    files = [jpeg(image) for image in originals]
    functions = pipelines(size)
    reference = next(iter(functions.values()))
    times = seconds_each(functions, files, rounds)
    base = times[next(iter(functions))]
    print(f"\n{width} x {height} JPEGs, {np.mean([len(data) for data in files]) / 1000:.0f} kB, to {size} x {size}")
    print(f"{'1 thread':32} {'images/s':>9} {'ratio':>6} {'difference (levels of 255)':>28}")
    for name, function in functions.items():
        ratio = np.median(base / times[name])
        print(
            f"{name:32} {1 / np.median(times[name]):9.0f} {ratio:5.2f}x {difference(reference, function, files):28.3f}"
        )
    stock = eval_transform(size, CLIP_MEAN, CLIP_STD)
    loss = [(stock(image) - reference(data)).abs().mean() for image, data in zip(originals, files)]
    loss = LEVEL * float(np.mean(loss))
    ratio = np.median(base / times[TRAINING])
    print(f"{verdict(ratio >= NEEDED)}: {TRAINING} {ratio:.2f}x, needed {NEEDED:.1f}x")
    print(f"yardsticks: the JPEG's own loss {loss:.3f}, bilinear for bicubic {bilinear(size, files):.3f}")


def bilinear(size: int, files: list[bytes]) -> float:
    def function(data):
        image = decode(data).resize((size, size), Image.Resampling.BILINEAR)
        return to_tensor(image, CLIP_MEAN, CLIP_STD)

    return difference(pipelines(size)["full decode, PIL bicubic"], function, files)


def report_margins(count: int) -> None:
    """The same image reduced by 2, with the result's size chosen to leave each margin."""
    files = [jpeg(photograph(seed)) for seed in range(count)]
    chosen = images.DRAFT_MARGIN
    print(f"\nhalf-size decoding of 1024 x 768 by margin (pixels kept for one of the result); chosen: {chosen}")
    print(f"{'margin':>6} {'result':>7} {'difference':>11} {'bilinear for bicubic':>21}")
    for margin in (1.0, 1.25, 1.5, 1.75, 2.0, 3.0):
        images.DRAFT_MARGIN = margin
        size = int(384 / margin)
        functions = pipelines(size)
        full, reduced = functions["full decode, PIL bicubic"], functions["reduced decode, PIL bicubic"]
        print(f"{margin:6.2f} {size:7d} {difference(full, reduced, files):11.3f} {bilinear(size, files):21.3f}")
    images.DRAFT_MARGIN = chosen


def half(number: int, files: list[bytes], size: int) -> None:
    """One worker's share of the images."""
    function = pipelines(size)[TRAINING]
    for data in files[number::2]:
        function(data)


def report_threads(size: int, files: list[bytes], rounds: int) -> None:
    """Two Python threads against one and against two processes: near the latter, as decoding releases the GIL."""
    seconds = {"1 thread": [], "2 threads": [], "2 processes": []}
    share = partial(half, files=files, size=size)
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        list(processes.map(share, range(2)))
        for _ in range(rounds):
            for name, mapper in (("1 thread", map), ("2 threads", threads.map), ("2 processes", processes.map)):
                start = time.perf_counter()
                list(mapper(share, range(2)))
                seconds[name].append(time.perf_counter() - start)
    print(
        f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} (above 1: busy with other work, which caps the gain)"
    )
    for name, values in seconds.items():
        gain = np.median(np.divide(seconds["1 thread"], values))
        print(f"{name:32} {len(files) / np.median(values):9.0f} {gain:5.2f}x")


def report_loader(size: int, files: list[bytes], seconds: float) -> None:
    """Sustained samples/s of CaptionBatches on tars of these JPEGs, the first batches left out."""
    print(f"\nCaptionBatches, batches of 32 from 4 tars of {len(files) * 4} samples")
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(4):
            write_tar(Path(folder) / f"{shard:06d}.tar", files * 4)
        data = open_captions(folder, cache=Path(folder) / "cache")
        for workers in (0, 2):
            batches = iter(CaptionBatches(data, Squash(size, CLIP_MEAN, CLIP_STD), 32, workers=workers, fit=size))
            for _ in range(4 + 2 * workers):
                next(batches)
            start, samples = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                samples += len(next(batches)["ids"])
            print(f"{workers} workers: {samples / (time.perf_counter() - start):.0f} samples/s")
            batches.close()


def write_tar(path: Path, files: list[bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(files):
            for suffix, content in (("jpg", data), ("txt", b"a drawing of noise and shapes")):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    if given.margins:
        return report_margins(given.images)
    report_decoding(given.image_size, given.images, given.rounds, 1024, 768)
    report_decoding(given.image_size, given.images, given.rounds, 1023, 767)
    files = [jpeg(photograph(seed)) for seed in range(given.images)]
    report_threads(given.image_size, files, given.rounds)
    report_loader(given.image_size, files, given.seconds)


if __name__ == "__main__":
    run_command(main)
