"""Features of a frozen encoder over many images, which are read on the way: two batches of pixels are held at a time.

A set of images is a sequence that gives a PIL image for a number; the probes' own open the file when they are asked.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pretrain.objective import Embeddings
from vlm.encoders.base import VisionEncoder
from vlm.run.progress import progress

ENCODE_BATCH = 128  # images
KEPT = 8 << 30  # bytes of patch tokens kept in memory: ADE20K's 20,210 training images on a ViT-B take 6.1 GB


def pixel_batches(encoder: VisionEncoder, images: Sequence, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    """float32[b, 3, H, W] on the encoder's device for each batch of numbers; the next one is decoded meanwhile."""

    def pixels(number: int) -> Tensor:
        return encoder.transform(images[number])

    def next_batch() -> list[Future[Tensor]]:
        return [pool.submit(pixels, number) for number in next(rest, ())]

    rest = iter(batches)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # Pillow decodes and resizes without the GIL
        batch = next_batch()
        while batch:
            following = next_batch()
            yield torch.stack([future.result() for future in batch]).to(encoder.device)
            batch = following


def in_order(count: int, size: int = ENCODE_BATCH) -> list[range]:
    """0 .. count - 1 in batches."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@torch.no_grad()
def over_images(
    encoder: VisionEncoder, images: Sequence, read: Callable[[Tensor], Tensor], label: str | None
) -> Tensor:
    """`read` of all images' pixels, in order: float32[B, ...] on the encoder's device. A label of None shows no bar."""
    parts = []
    with progress(len(images), label or "", "image", show=label is not None) as bar:
        for pixels in pixel_batches(encoder, images, in_order(len(images))):
            parts.append(read(pixels).float())
            bar.update(len(pixels))
    return torch.cat(parts)


def cls_features(encoder: VisionEncoder, images: Sequence, label: str) -> Tensor:
    """CLS after the final norm, or what the encoder's own head pools: float32[B, width]."""
    return over_images(encoder, images, encoder.features, label)


def embed_images(encoder: VisionEncoder, images: Sequence, label: str | None) -> tuple[Tensor, Tensor]:
    """z_v and the caption it predicts, h_v(z_v), each float32[B, E]."""

    def read(pixels: Tensor) -> Tensor:
        z_v = encoder.embed_images(pixels)
        return torch.stack([z_v, encoder.predict_text(z_v)], dim=1)  # [b, 2, E]

    both = over_images(encoder, images, read, label)  # [B, 2, E]
    return both[:, 0], both[:, 1]


@torch.no_grad()
def embed_texts(encoder: VisionEncoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """z_t and the image it predicts, h_t(z_t), each float32[B, E]."""
    z_t, to_image = [], []
    for part in in_order(len(texts)):
        z_t.append(encoder.embed_texts(texts[part.start : part.stop]))
        to_image.append(encoder.predict_image(z_t[-1]))
    return torch.cat(z_t).float(), torch.cat(to_image).float()


def embed(
    encoder: VisionEncoder, images: Sequence, captions: Sequence[str], label: str | None = "images"
) -> Embeddings:
    """Images and captions -> z_v, z_t, h_v(z_v), h_t(z_t), each float32[B, E]."""
    z_v, to_text = embed_images(encoder, images, label)
    z_t, to_image = embed_texts(encoder, captions)
    return Embeddings(z_v, z_t, to_text, to_image)


@torch.no_grad()
def patch_tokens(encoder: VisionEncoder, images: Sequence, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    """Patch tokens after the final norm of each batch of numbers, [b, N, width], rounded to float16."""
    for pixels in pixel_batches(encoder, images, batches):
        yield encoder.patch_tokens(pixels).half()


class PatchTokens:
    """The patch tokens of a training set: kept in memory if they fit, else encoded anew each time they are asked.

    They are the same float16 numbers either way. mean, std: float32[width] over all tokens.
    """

    def __init__(self, encoder: VisionEncoder, images: Sequence):
        self._encoder, self._images = encoder, images
        tokens, width = encoder.config.patches, encoder.width
        fits = 2 * len(images) * tokens * width <= KEPT  # 2 bytes a float16
        self._kept = torch.empty(len(images), tokens, width, dtype=torch.half) if fits else None
        total, squares = torch.zeros(2, width, dtype=torch.float64, device=encoder.device)
        batches = in_order(len(images))
        with progress(len(images), "patch tokens", "image") as bar:
            for numbers, part in zip(batches, patch_tokens(encoder, images, batches)):
                flat = part.flatten(0, 1).double()  # [b * N, width]
                total += flat.sum(0)
                squares += flat.square().sum(0)
                if self._kept is not None:
                    self._kept[numbers.start : numbers.stop] = part.cpu()
                bar.update(len(numbers))
        mean = total / (len(images) * tokens)
        variance = squares / (len(images) * tokens) - mean.square()
        self.mean, self.std = mean.float(), variance.clamp(min=1e-12).sqrt().float()

    def batches(self, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """float32[b, N, width] on the encoder's device for each batch of numbers."""
        if self._kept is None:
            for part in patch_tokens(self._encoder, self._images, batches):
                yield part.float()
        else:
            for numbers in batches:
                yield self._kept[torch.as_tensor(numbers)].to(self._encoder.device).float()


def shuffled(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Row numbers of `steps` batches. An epoch is a permutation keyed by (seed, epoch), its short rest is left out."""
    size = min(size, count)  # fewer rows than `size` make one batch an epoch
    batches_an_epoch = count // size
    for first in range(0, steps, batches_an_epoch):
        order = np.random.default_rng([seed, first // batches_an_epoch]).permutation(count)
        for place in range(min(batches_an_epoch, steps - first)):
            yield order[place * size : (place + 1) * size].tolist()
