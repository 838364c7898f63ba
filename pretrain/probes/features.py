"""What a frozen encoder makes of many images. They are read on the way: two batches of pixels are all that is held.

An image set is a sequence that gives a PIL image for a number; the probes' own open a file when they are asked.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pretrain.objective import Embeddings
from vlm.encoders.levljepa import Encoder
from vlm.run.progress import progress

BATCH = 128
KEPT = 8 << 30  # bytes of patch tokens kept in memory: ADE20K's 20,210 training images on a ViT-B take 6.1 GB


def pixel_batches(encoder: Encoder, images: Sequence, batches: Iterable[Sequence[int]]) -> Iterator[torch.Tensor]:
    """float32[b, 3, H, W] on the encoder's device for each batch of numbers; the next one is decoded meanwhile."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # Pillow decodes and resizes without the GIL
        ahead = deque()
        for numbers in batches:
            ahead.append([pool.submit(lambda number: encoder.transform(images[number]), n) for n in numbers])
            if len(ahead) > 1:
                yield _stacked(ahead.popleft(), encoder.device)
        while ahead:
            yield _stacked(ahead.popleft(), encoder.device)


def _stacked(waiting: list, device: torch.device) -> torch.Tensor:
    return torch.stack([future.result() for future in waiting]).to(device)


def in_order(count: int, size: int = BATCH) -> list[range]:
    """0 .. count - 1 in batches."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@torch.no_grad()
def over_images(
    encoder: Encoder, images: Sequence, read: Callable[[torch.Tensor], torch.Tensor], label: str | None
) -> torch.Tensor:
    """`read` of the pixels of all images, in order: float32[len(images), ...] on the encoder's device.

    label: of the progress bar; None shows none.
    """
    parts = []
    with progress(len(images), label, "image", show=label is not None) as bar:
        for pixels in pixel_batches(encoder, images, in_order(len(images))):
            parts.append(read(pixels).float())
            bar.update(len(pixels))
    return torch.cat(parts)


def cls_features(encoder: Encoder, images: Sequence, label: str) -> torch.Tensor:
    """CLS after the final norm, float32[B, vision_width]."""
    return over_images(encoder, images, encoder.image.features, label)


def embed_images(encoder: Encoder, images: Sequence, label: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """z_v and the caption it predicts, h_v(z_v), each float32[B, E]."""

    def read(pixels: torch.Tensor) -> torch.Tensor:
        z_v = encoder.embed_images(pixels)
        return torch.stack([z_v, encoder.predict_text(z_v)], dim=1)

    return over_images(encoder, images, read, label).unbind(1)


@torch.no_grad()
def embed_texts(encoder: Encoder, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """z_t and the image it predicts, h_t(z_t), each float32[B, E]."""
    parts = [encoder.embed_texts(texts[part.start : part.stop]) for part in in_order(len(texts))]
    return torch.cat(parts).float(), torch.cat([encoder.predict_image(part) for part in parts]).float()


def embed(encoder: Encoder, images: Sequence, captions: Sequence[str], label: str | None = "images") -> Embeddings:
    """Images and captions -> z_v, z_t, h_v(z_v), h_t(z_t), each float32[B, E]."""
    z_v, to_text = embed_images(encoder, images, label)
    z_t, to_image = embed_texts(encoder, captions)
    return Embeddings(z_v, z_t, to_text, to_image)


@torch.no_grad()
def patch_tokens(encoder: Encoder, images: Sequence, batches: Iterable[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Patch tokens after the final norm of each batch of numbers, [b, N, vision_width], rounded to float16."""
    for pixels in pixel_batches(encoder, images, batches):
        yield encoder.patch_tokens(pixels).half()


class PatchTokens:
    """The patch tokens of a training set: kept in memory where they fit, else encoded anew each time they are asked.

    They are the same float16 numbers either way. mean, std: float32[vision_width] over all tokens.
    """

    def __init__(self, encoder: Encoder, images: Sequence):
        self._encoder, self._images, self._kept = encoder, images, None
        tokens, width = encoder.vision.patch_embed.num_patches, encoder.config.vision_width
        if 2 * len(images) * tokens * width <= KEPT:
            self._kept = torch.empty(len(images), tokens, width, dtype=torch.half)
        total, squares = torch.zeros(2, width, dtype=torch.float64, device=encoder.device)
        batches = in_order(len(images))
        with progress(len(images), "patch tokens", "image") as bar:
            for numbers, part in zip(batches, patch_tokens(encoder, images, batches)):
                flat = part.flatten(0, 1).double()
                total += flat.sum(0)
                squares += flat.square().sum(0)
                if self._kept is not None:
                    self._kept[numbers.start : numbers.stop] = part.cpu()
                bar.update(len(numbers))
        mean = total / (len(images) * tokens)
        variance = squares / (len(images) * tokens) - mean.square()
        self.mean, self.std = mean.float(), variance.clamp(min=1e-12).sqrt().float()

    def batches(self, batches: Iterable[Sequence[int]]) -> Iterator[torch.Tensor]:
        """float32[b, N, vision_width] on the encoder's device for each batch of numbers."""
        if self._kept is None:
            found = patch_tokens(self._encoder, self._images, batches)
        else:
            found = (self._kept[torch.as_tensor(numbers)].to(self._encoder.device) for numbers in batches)
        for part in found:
            yield part.float()


def shuffled(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Row numbers of `steps` batches. Every epoch is a permutation keyed by (seed, epoch); its short rest is left out.

    Fewer rows than `size` make one batch an epoch.
    """
    size = min(size, count)
    for step in range(steps):
        epoch, place = divmod(step, count // size)
        if place == 0:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        yield order[place * size : (place + 1) * size].tolist()
