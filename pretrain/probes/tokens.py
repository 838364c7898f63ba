"""The patch tokens of a training set, encoded once if there is room for them: in memory, or in a file."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pretrain.probes.features import Forecast, in_order, own, patch_tokens
from vlm.distributed import all_items, all_sum, barrier, is_main, on_main, world_size
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError
from vlm.run.progress import progress

KEPT = 8 << 30  # bytes that may lie in memory: ADE20K's 20,210 training images on a ViT-B take 6.1 GB
SPARE = 1 << 30  # bytes that are left free of a disk that nobody named
MEASURED_IMAGES = 10_000  # for mean and deviation, if tokens are not kept
READERS, ROWS_EACH = 16, 16  # threads that read a batch from a file, rows that one of them takes
EPOCHS = {True: 20, False: 5}  # of what learns from the tokens: if they are kept, if each epoch encodes them anew


class PatchTokens:
    """The patch tokens of a training set, as the same float16 numbers however they are kept.

    mean, std: float32[width] over all tokens, or over those of 10,000 images if they are not kept. epochs: how often
    they may be asked for. Several processes encode them together; then rank 0 alone may ask for `batches`.
    """

    def __init__(self, encoder: VisionEncoder, images: Sequence, folder: str | None = None):
        """folder: where a file may be made that is gone when the process ends, by default the system's temporary one.

        Raises: UserError if the folder was given and has no room, or not every process sees the file; SystemExit(2) on
        all ranks but the first.
        """
        self._encoder, self._images = encoder, images
        shape = (len(images), encoder.config.patches, encoder.width)
        self._kept, where = _storage(shape, folder)
        self.epochs = EPOCHS[self._kept is not None]
        chosen = range(len(images))
        if self._kept is None:
            chosen = chosen[:: -(-len(images) // MEASURED_IMAGES)]
        total, squares = self._encode(chosen, where)
        self.mean, self.std = _statistics(total, squares, len(chosen) * encoder.config.patches)

    def _encode(self, chosen: range, where: str) -> tuple[Tensor, Tensor]:
        """Encode the chosen images, each rank its own, and keep their tokens if there is room for them; collective.

        where: as `_storage` says it. -> the sum of all ranks' tokens and that of their squares, float64[width] each.
        """
        encoder, kept = self._encoder, self._kept
        total, squares = torch.zeros(2, encoder.width, dtype=torch.float64, device=encoder.device)
        batches = own(in_order(len(chosen)))
        numbers = [chosen[part.start : part.stop] for part in batches]
        forecast = Forecast("patch tokens", len(chosen), len(batches))
        room = 0 if kept is None else _bytes(kept.shape)
        with progress(len(chosen), "patch tokens", "image", show=is_main()) as bar:
            for rows, part in zip(numbers, patch_tokens(encoder, self._images, numbers)):
                flat = part.flatten(0, 1).double()  # [b * N, width]
                total += flat.sum(0)
                squares += flat.square().sum(0)
                if kept is not None:
                    kept[rows.start : rows.stop] = part.cpu()
                bar.update(len(rows) * world_size())
                forecast.after(room, where)
        total, squares = all_sum(total), all_sum(squares)
        barrier()  # every rank's rows are in the file
        return total, squares

    def batches(self, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """float32[b, N, width] on the encoder's device for each batch of numbers; the next one is read meanwhile."""
        if self._kept is None:
            for part in patch_tokens(self._encoder, self._images, batches):
                yield part.float()
            return
        kept, rest = self._kept, iter(batches)

        def next_batch() -> list[Future[Tensor]]:
            rows = torch.as_tensor(next(rest, ()), dtype=torch.int64)
            return [pool.submit(lambda some: kept[some], some) for some in rows.split(ROWS_EACH) if len(some)]

        with ThreadPoolExecutor(READERS) as pool:
            batch = next_batch()
            while batch:
                following = next_batch()
                yield torch.cat([part.result() for part in batch]).to(self._encoder.device).float()
                batch = following


def _statistics(total: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation, float32[width], of `count` tokens with these sums, float64[width].

    From sums, since tokens that are not kept are seen once. In float64, since squares / count and mean^2 may have many
    digits in common, which float32 would lose.
    """
    mean = total / count
    variance = squares / count - mean.square()
    return mean.float(), variance.clamp(min=1e-12).sqrt().float()


def _bytes(shape: Sequence[int]) -> int:
    return 2 * shape[0] * shape[1] * shape[2]  # of float16


def _storage(shape: tuple[int, int, int], folder: str | None) -> tuple[Tensor | None, str]:
    """An empty float16 tensor of `shape`, the same one for all ranks, and where it lies; None if there is no room."""
    size = _bytes(shape)
    if size <= KEPT and world_size() == 1:
        return torch.empty(shape, dtype=torch.half), "in memory"
    path = on_main(lambda: _make_file(size, folder))
    if path is None:
        return None, "kept"
    _check_shared(path, size, folder)
    kept = torch.from_file(path, shared=True, size=size // 2, dtype=torch.half).view(shape)
    barrier()
    if is_main():
        os.unlink(path)  # its room is free again when the last process has ended, however it ends
    return kept, f"in {Path(path).parent}"


def _check_shared(path: str, size: int, folder: str | None) -> None:
    """Raise a `UserError` unless all ranks see the file that rank 0 has made; collective.

    `torch.from_file` makes a file that is not there: ranks of another machine would write into one of their own.
    """
    if all(all_items([_has_size(path, size)])):
        return
    if is_main():
        os.unlink(path)
    place = f"--tokens {folder}" if folder else f"{Path(path).parent}, where patch tokens are kept,"
    problem = f"{place} is not one folder for all processes: give --tokens DIR on storage that all machines share"
    raise UserError(problem) if is_main() else SystemExit(2)


def _has_size(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def _make_file(size: int, folder: str | None) -> str | None:
    """A file of `size` bytes in `folder`, which the disk has set aside if it can; None if there is no room."""
    place = Path(folder or tempfile.gettempdir())
    taken = f"the patch tokens take {size:,} bytes"
    try:
        free = shutil.disk_usage(place).free
        if free >= size + (SPARE if folder is None else 0):
            handle, path = tempfile.mkstemp(prefix="tokens-", dir=place)
            try:
                _lengthen(handle, size)
                return path
            except OSError:
                os.unlink(path)
                raise
            finally:
                os.close(handle)
        problem = f"{place} has {free:,} free"
    except OSError as error:
        problem = f"{place} cannot hold them ({error.strerror})"
    if folder is not None:
        raise UserError(f"--tokens {folder}: {taken}, {problem}")
    instead = f"each of {EPOCHS[False]} epochs encodes them anew, in place of {EPOCHS[True]} epochs that read them"
    print(f"{taken}, {problem}: {instead}; --tokens DIR names another disk", file=sys.stderr)
    return None


def _lengthen(handle: int, size: int) -> None:
    """Make an empty file `size` bytes long; if the disk is full, that is found out now, but on macOS only later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)
