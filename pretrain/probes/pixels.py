"""Pixels of many images for a frozen encoder: decoded in threads or worker processes, a few batches ahead."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pretrain.data.workers import START, dead_loaders_told
from vlm.cores import cores
from vlm.device import sent
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError
from vlm.images import EvalTransform

MANY = 32  # batches; for fewer, processes would take longer to start than they save
MOST_WORKERS = 16  # of a process
FEWER = "close what else fills memory or /dev/shm, or give fewer cores, as taskset -c 0-3 does, for fewer workers"


class Images(Sequence[Image.Image]):
    """`count` images, each read when it is asked for. in_processes: whether forked processes may read them as well."""

    def __init__(self, count: int, read: Callable[[int], Image.Image], in_processes: bool = True):
        self._count, self._read, self.in_processes = count, read, in_processes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:  # a number alone; Sequence's own type asks for slices as well
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._read(index)


def pixel_batches(encoder: VisionEncoder, images: Sequence, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    """float32[b, 3, H, W] on the encoder's device for each batch of numbers; the next ones are decoded meanwhile.

    Threads decode them, or processes if there are many: Pillow and torch work without the GIL, but not all the time.
    """
    if isinstance(batches, list) and getattr(images, "in_processes", False) and len(batches) >= MANY:
        workers = _workers(encoder, len(batches[0]))
        if workers > 1:
            yield from _from_processes(encoder, images, batches, workers)
            return
    yield from _from_threads(encoder, images, batches)


def _from_threads(encoder: VisionEncoder, images: Sequence, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    transform, rest = encoder.transform, iter(batches)

    def next_batch() -> list[Future[Tensor]]:
        return [pool.submit(lambda number: transform(images[number]), number) for number in next(rest, ())]

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        batch = next_batch()
        while batch:
            following = next_batch()
            yield torch.stack([future.result() for future in batch]).to(encoder.device)
            batch = following


class _Batches:
    """A data set for a DataLoader whose items are whole batches, or the error that came of one."""

    def __init__(self, images: Sequence, transform: EvalTransform, batches: Sequence[Sequence[int]]):
        self.images, self.transform, self.batches = images, transform, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> Tensor | UserError:
        try:
            return torch.stack([self.transform(self.images[number]) for number in self.batches[place]])
        except UserError as error:  # a DataLoader would lose the class of an error with two arguments
            return error


def _from_processes(
    encoder: VisionEncoder, images: Sequence, batches: list[Sequence[int]], workers: int
) -> Iterator[Tensor]:
    on_gpu = encoder.device.type == "cuda"
    items: Any = _Batches(images, encoder.transform, batches)
    options: Any = {"batch_size": None, "num_workers": workers, "prefetch_factor": 2, "pin_memory": on_gpu}
    with dead_loaders_told(reading=True, remedy=FEWER):
        for pixels in DataLoader(items, multiprocessing_context=START, **options):
            if isinstance(pixels, UserError):
                raise pixels
            yield sent(pixels, encoder.device)


def _workers(encoder: VisionEncoder, rows: int) -> int:
    """Processes for which there are cores, and room in the shared memory through which their batches come."""
    together = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    batch = rows * 3 * encoder.config.image_size**2 * 4
    try:
        room = shutil.disk_usage("/dev/shm").free // together
    except OSError:
        return 0
    return min(len(cores()) // together, MOST_WORKERS, room // (4 * batch))  # two ahead, one in work, and one to spare
