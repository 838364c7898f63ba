"""What the host does on the main thread in a step, as it was and as it is. See scripts/bench_step.py --parts host."""

import random
import time
from collections.abc import Callable
from statistics import median

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.harness import Goals, header, row
from pretrain.data.augment import Squash
from pretrain.directions import DirectionsAhead
from pretrain.sigreg import random_directions
from vlm.encoders.config import CLIP_MEAN, CLIP_STD, EncoderConfig
from vlm.encoders.tokens import CaptionTokenizer
from vlm.pixels import to_tensor

NEEDED = 5.0  # times less of the main thread
STEP = 0.151  # seconds of the device's step that all this hides behind: ViT-B and GPT-2, 512 rows
DIRECTIONS, EMBED = 4096, EncoderConfig.embed_dim
MODALITIES = ("image", "text")


class Rows(Dataset):
    """Batches of captions, tokenised where they are made."""

    def __init__(self, captions: list[str], tokenizer: CaptionTokenizer, steps: int):
        self.captions, self.tokenizer, self.steps = captions, tokenizer, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict:
        tokens, lengths = self.tokenizer(self.captions)
        return {"captions": self.captions, "tokens": tokens, "lengths": lengths}


def some_captions(count: int) -> list[str]:
    """Captions of 24 words on average from a vocabulary of 2,000."""
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioubdfgklmnprst", k=draw.randint(2, 9))) for _ in range(2000)]
    return [" ".join(draw.choices(words, k=max(3, round(draw.lognormvariate(3, 0.6))))) for _ in range(count)]


def median_ms(function: Callable[[int], object], steps: int) -> float:
    """Milliseconds that the caller of `function(step)` waits, while a device would compute between the calls."""
    times = []
    for step in range(steps):
        start = time.perf_counter()
        function(step)
        times.append(time.perf_counter() - start)
        time.sleep(STEP)
    return 1000 * median(times[1:])


def bench_host(rows: int, steps: int, goals: Goals) -> None:
    """Print the milliseconds by kind of work, and the bytes of a batch."""
    captions = some_captions(rows)
    tokenizer = CaptionTokenizer.train(captions, 2048)
    loader = iter(DataLoader(Rows(captions, tokenizer, steps), batch_size=None, num_workers=1))
    ahead, cpu = DirectionsAhead(), torch.device("cpu")

    def draw(step: int) -> None:
        for modality in MODALITIES:
            random_directions(EMBED, DIRECTIONS, 0, step, modality)

    def take(step: int) -> None:
        for modality in MODALITIES:
            ahead(EMBED, DIRECTIONS, 0, step, modality, cpu)

    work = {
        "tokenising; taking a batch that a worker has tokenised": (
            median_ms(lambda step: tokenizer(captions), steps),
            median_ms(lambda step: next(loader), steps),
        ),
        f"drawing {len(MODALITIES)} x {EMBED} x {DIRECTIONS} directions; taking them": (
            median_ms(draw, steps),
            median_ms(take, steps),
        ),
    }
    header(f"main thread, {rows} rows, a step of {1000 * STEP:.0f} ms", "before, ms", "now, ms", "ratio")
    for name, (before, now) in work.items():
        row(name, f"{before:.2f}", f"{now:.2f}", f"{before / now:.1f}x")
    before, now = (sum(times) for times in zip(*work.values()))
    row("together", f"{before:.2f}", f"{now:.2f}", goals.at_least(before / now, NEEDED))
    print()
    bytes_of_pixels(rows, goals)


def bytes_of_pixels(rows: int, goals: Goals) -> None:
    """Print what a batch of pixels weighs in workers, shared memory and on the way to the device."""
    pixels = Squash(224)(Image.new("RGB", (256, 256)), torch.Generator())
    before, now = (rows * each.nbytes / 1e6 for each in (to_tensor(pixels, CLIP_MEAN, CLIP_STD), pixels))
    header(f"pixels of {rows} rows of 224 x 224", "before, MB", "now, MB", "ratio")
    row("worker, shared memory, PCIe", f"{before:.1f}", f"{now:.1f}", goals.at_least(before / now, 4))
