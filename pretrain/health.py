"""Judges whether training collapses, by the embeddings of a batch."""

from collections import deque

import torch
from torch.nn.functional import normalize

from pretrain.objective import Embeddings, effective_rank
from vlm.distributed import all_rows

ROWS = 512  # pairs that the ranks and cosines are read from, or a step's if it has more

LOW_RANK = 0.15  # of the highest that the batch allows
RANK_LOSS = 1 / 3  # of the highest seen so far
MARGIN = 0.02  # by which the cosine of matched pairs must be above that of mismatched ones
SETTLING_STEPS = 100  # before, and before the warm-up is over, ranks dip and pairs look alike in healthy runs too


class Rows:
    """The embeddings of the last steps on this rank, so many that all ranks together have about `ROWS` pairs.

    They stay on the device, and nothing is gathered or read until `health` is asked. Few rows cannot show that an
    embedding has lost its dimensions: 16 have a rank of 15 at most.
    """

    def __init__(self, batch_size: int):
        """batch_size: of all ranks."""
        self.steps: deque[Embeddings] = deque(maxlen=max(1, ROWS // batch_size))

    def add(self, e: Embeddings) -> None:
        self.steps.append(Embeddings(e.z_v.detach(), e.z_t.detach(), e.to_text.detach(), e.to_image.detach()))

    def attainable(self, embed_dim: int, batch_size: int) -> int:
        """The highest rank that the rows kept can have: of each step one is lost, since its mean is taken away."""
        return min(embed_dim, len(self.steps) * (batch_size - 1))

    def health(self) -> dict[str, torch.Tensor]:
        """`health` of the rows of all ranks; collective."""
        names = ("z_v", "z_t", "to_text", "to_image")
        parts = [torch.stack([getattr(step, name).float() for step in self.steps], 1) for name in names]  # [B, K, E]
        return health(Embeddings(*(all_rows(part) for part in parts)))


@torch.no_grad()
def health(e: Embeddings) -> dict[str, torch.Tensor]:
    """Effective rank of each modality, and the mean cosine of matched and of mismatched pairs, float32[] each.

    The parts of `e` are [B, E], or [B, K, E] of K steps. What moves from step to step is no spread of the embeddings:
    each step's mean is taken away, and pairs are of one step.

    A pair's cosine is the mean of cos(h_v(z_v), z_t) and cos(z_v, h_t(z_t)). The means over all pairs come from sums
    of rows, without the B x B matrix.
    """
    matched_texts, mismatched_texts = _cosines(e.to_text, e.z_t)
    matched_images, mismatched_images = _cosines(e.to_image, e.z_v)
    return {
        "rank_image": _rank(e.z_v),
        "rank_text": _rank(e.z_t),
        "cosine_matched": torch.stack([matched_texts, matched_images]).mean(),
        "cosine_mismatched": torch.stack([mismatched_texts, mismatched_images]).mean(),
    }


def _rank(z: torch.Tensor) -> torch.Tensor:
    """The effective rank of rows [B, E] or [B, K, E] about their step's mean, but for steps that are not finite."""
    finite = z.isfinite().all(-1).all(0)  # [] or [K]
    centred = torch.where(finite[..., None], z - z.mean(0), 0)
    return torch.where(finite.any(), effective_rank(centred.flatten(0, -2)), torch.nan)


def _cosines(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosine of rows [B, E] or [B, K, E] with the same index, and of rows of one step with different ones."""
    a, b, rows = normalize(a.float(), dim=-1), normalize(b.float(), dim=-1), len(a)
    matched = (a * b).sum(-1).sum(0)  # [] or [K]
    all_pairs = (a.sum(0) * b.sum(0)).sum(-1)  # sum_ij a_i . b_j
    return (matched / rows).nanmean(), ((all_pairs - matched) / (rows * (rows - 1))).nanmean()


def collapse(values: dict[str, float], peaks: dict[str, float], attainable: int) -> str | None:
    """What in `values` of `health` looks like collapse, in one line, or None.

    peaks: the highest ranks seen so far. attainable: the highest rank possible, of one step's rows min(E, rows - 1).
    """
    found = []
    for modality in ("image", "text"):
        rank, peak = values[f"rank_{modality}"], peaks[f"rank_{modality}"]
        if rank < LOW_RANK * attainable:
            found.append(f"the {modality} embeddings' effective rank is {rank:.1f} of {attainable}")
        elif rank < RANK_LOSS * min(peak, attainable):  # after a stop fewer rows are read at first than for the peak
            found.append(f"the {modality} embeddings' effective rank fell from {peak:.1f} to {rank:.1f}")
    matched, mismatched = values["cosine_matched"], values["cosine_mismatched"]
    if matched - mismatched < MARGIN:
        found.append(f"matched pairs (cosine {matched:.2f}) are no closer than mismatched ones ({mismatched:.2f})")
    return "collapse? " + "; ".join(found) if found else None
