"""Features of a frozen encoder over many images, which are read on the way: a few batches of pixels are held at a time.

A set of images is a sequence that gives a PIL image for a number; the probes' own open the file when they are asked.
Several processes share the images: each encodes whole batches of its own, and all get all rows.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pretrain.objective import Embeddings
from pretrain.probes.pixels import pixel_batches
from vlm.distributed import all_rows, from_main, is_main, rank, world_size
from vlm.encoders.base import VisionEncoder
from vlm.run.progress import progress

ENCODE_BATCH = 128  # images
MEASURED = range(4, 12)  # batches that the time is told from; the first ones are slower
TOLD_FROM = 60  # batches: fewer are over soon


def encode_in(encoder: VisionEncoder, dtype: torch.dtype) -> VisionEncoder:
    """`encoder` with its towers in autocast to `dtype`; the same encoder for float32. What is fitted stays float32."""
    if dtype == torch.float32:
        return encoder
    autocast = torch.autocast(encoder.device.type, dtype=dtype)
    twin = encoder.with_config()
    for name in ("patch_tokens", "features", "embed_images", "embed_texts", "predict_text", "predict_image"):
        setattr(twin, name, autocast(getattr(twin, name)))
    return twin


class Forecast:
    """Says once, from the first batches, how long the images will take, and what their features take."""

    def __init__(self, label: str, images: int, batches: int):
        """images: of all processes. batches: of this one."""
        self.label, self.images, self.batches, self.done = label, images, batches, 0
        self.start = 0.0

    def after(self, kept_bytes: int, where: str) -> None:
        """Take the end of a batch. kept_bytes: of what is kept of all images."""
        if self.done == MEASURED.start:
            self.start = time.perf_counter()
        if self.done == MEASURED.stop and self.batches >= TOLD_FROM and is_main():
            each = (time.perf_counter() - self.start) / len(MEASURED)
            rate, minutes = self.images / self.batches / each, each * self.batches / 60
            words = f"{self.images:,} images at {rate:,.0f} a second, {minutes:,.1f} minutes"
            print(f"{self.label}: {words}; {kept_bytes / 1e9:,.2f} GB {where}", file=sys.stderr)
        self.done += 1


def in_order(count: int, size: int | None = None) -> list[range]:
    """0 .. count - 1 in batches, by default of ENCODE_BATCH."""
    size = size or ENCODE_BATCH
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def own(batches: list[range]) -> list[range]:
    """This rank's part of all batches: as many for each rank, in rank order; the last ones may have fewer or none."""
    share = -(-len(batches) // world_size())
    return batches[rank() * share : (rank() + 1) * share]


@torch.no_grad()
def over_images(
    encoder: VisionEncoder, images: Sequence, read: Callable[[Tensor], Tensor], label: str | None
) -> Tensor:
    """`read` of all images' pixels, in order: float32[B, ...] on the encoder's device, on every rank; collective.

    A label of None shows no bar.
    """
    batches = in_order(len(images))
    mine, parts = own(batches), []
    forecast = Forecast(label or "", len(images), len(mine))
    with progress(len(images), label or "", "image", show=label is not None and is_main()) as bar:
        for pixels in pixel_batches(encoder, images, mine):
            parts.append(read(pixels).float())
            bar.update(len(pixels) * world_size())
            forecast.after(4 * parts[0][0].numel() * len(images), "of features")
    if world_size() == 1:
        return torch.cat(parts)
    # Every rank sends as many rows; only those behind the last image are empty.
    rows = -(-len(batches) // world_size()) * ENCODE_BATCH
    shape = from_main(parts[0].shape[1:] if is_main() else None)  # a rank may have no batch
    sent = torch.zeros(rows, *shape, device=encoder.device)
    if parts:
        torch.cat(parts, out=sent[: sum(map(len, parts))])
    return all_rows(sent)[: len(images)]


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


def shuffled(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Row numbers of `steps` batches. An epoch is a permutation keyed by (seed, epoch), its short rest is left out."""
    size = min(size, count)  # fewer rows than `size` make one batch an epoch
    batches_an_epoch = count // size
    for first in range(0, steps, batches_an_epoch):
        order = np.random.default_rng([seed, first // batches_an_epoch]).permutation(count)
        for place in range(min(batches_an_epoch, steps - first)):
            yield order[place * size : (place + 1) * size].tolist()
