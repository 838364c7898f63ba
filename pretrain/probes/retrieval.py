"""Do images and captions find each other, and do their embeddings fill their space?"""

import sys
from collections.abc import Sequence
from threading import Lock

import torch
from PIL import Image
from torch import Tensor

from pretrain.data.captions import BadSample
from pretrain.data.pairs import Captions, usable_captions
from pretrain.objective import Embeddings, effective_rank
from pretrain.probes.features import embed
from pretrain.probes.labelled import decoded
from pretrain.probes.pixels import Images
from pretrain.probes.zero_shot import cross_modal_scores
from pretrain.sigreg import knots_and_weights, random_directions, sigreg
from vlm.distributed import is_main
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError
from vlm.images import ImageError, decode

RANKS = (1, 5)
DIRECTIONS = 4096
POOL = 256  # pairs, if no number is given
AHEAD = 64  # pairs that are requested at a time, where reading is slow


def caption_pool(data: Captions, asked: int | None = None) -> tuple[Images, list[str]]:
    """The first `asked` images and captions that can be used; by default `POOL`, or as many as there are.

    Raises: UserError if there are fewer than asked, or too few for recall.
    """
    count = asked or POOL
    if count < max(RANKS):
        raise UserError(f"a pool of {count}: R@{max(RANKS)} needs {max(RANKS)} captions or more")
    images, captions, passed = usable_pairs(data, count)
    if len(captions) < max(RANKS):
        raise UserError(f"the data holds {len(captions)} usable pairs: R@{max(RANKS)} needs {max(RANKS)} or more")
    if asked and len(captions) < asked:
        raise UserError(f"the data holds {len(captions)} usable pairs: give --pool {len(captions)} or less")
    tell_passed(passed, len(captions))
    return images, captions


def usable_pairs(data: Captions, count: int) -> tuple[Images, list[str], int]:
    """The first `count` images and captions that can be used, or as many as there are; and how many were passed over.

    Each image is decoded once to be sure of it, and again when it is asked for: none is held.
    """
    numbers, captions, seen = [], [], 0
    while seen < len(data) and len(numbers) < count:
        if data.reads_ahead and not seen % AHEAD:
            data.prefetch(range(seen, min(seen + AHEAD, len(data))))
        if caption := _caption_if_usable(data, seen):
            numbers.append(seen)
            captions.append(caption)
        seen += 1
    one_at_a_time = Lock()  # a source keeps files open between reads

    def read(place: int) -> Image.Image:
        with one_at_a_time:
            content, _ = data.read(numbers[place])
        shard, index = data.identify(numbers[place])
        return decoded(content, f"{shard}:{index}")

    return Images(len(numbers), read, in_processes=False), captions, seen - len(numbers)


def _caption_if_usable(data: Captions, number: int) -> str | None:
    try:
        image, raw = data.read(number)
        decode(image or b"")
        return next(iter(usable_captions(raw)), None)
    except (OSError, ImageError, BadSample):
        return None


def tell_passed(passed: int, count: int) -> None:
    """Say on rank 0 that pairs were passed over: the pool is not simply the first of the data."""
    if passed and is_main():
        print(f"{passed} pairs that cannot be used were passed over for the pool of {count}", file=sys.stderr)


def recall_at(scores: Tensor, captions: Sequence[str], k: int) -> float:
    """Share of rows of scores float[B, B] whose own column, or one with an equal caption, is among the k largest."""
    nearest = scores.topk(k, dim=1).indices.tolist()  # k columns a row
    found = [caption in [captions[column] for column in columns] for caption, columns in zip(captions, nearest)]
    return sum(found) / len(found)


def recalls(e: Embeddings, captions: Sequence[str]) -> dict[str, float]:
    """R@1 and R@5 of images among captions and of captions among images."""
    scores = cross_modal_scores(e.z_v, e.z_t, e.to_text, e.to_image)
    directions = {"image_to_text": scores, "text_to_image": scores.T}
    return {f"{name}_r{k}": recall_at(part, captions, k) for name, part in directions.items() for k in RANKS}


def ranks(e: Embeddings) -> dict[str, float]:
    """Effective rank of each modality's embeddings."""
    return {"rank_image": float(effective_rank(e.z_v)), "rank_text": float(effective_rank(e.z_t))}


def expected_sigreg() -> float:
    """SIGReg's mean on samples of the normal distribution it pulls towards, whatever their number.

    It is the variance of a sample's characteristic function, 1 - phi(t)^2, under SIGReg's weights.
    """
    t, weight = knots_and_weights()
    return float((weight * -torch.expm1(-t.square())).sum())


def spread(e: Embeddings) -> dict[str, float]:
    """Effective rank and SIGReg of each modality's embeddings; SIGReg grows with the pool if they are not normal."""
    directions = random_directions(e.z_v.shape[1], DIRECTIONS, 0, 0, "probe", device=e.z_v.device)
    return {
        **ranks(e),
        "sigreg_image": float(sigreg(e.z_v, directions)),
        "sigreg_text": float(sigreg(e.z_t, directions)),
        "sigreg_normal": expected_sigreg(),
    }


def retrieval_probe(encoder: VisionEncoder, images: Sequence, captions: Sequence[str]) -> dict[str, float]:
    """Recall in both directions over the pool, and the spread of its embeddings."""
    embed_dim = encoder.embed_dim  # asked first: an encoder without text is refused before any image is read
    e = embed(encoder, images, captions)
    return {"pool": len(captions), **recalls(e, captions), "embed_dim": embed_dim, **spread(e)}
