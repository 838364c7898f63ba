"""Judges whether training collapses, by the embeddings of a batch."""

import torch
from torch.nn.functional import normalize

from pretrain.objective import Embeddings, effective_rank

LOW_RANK = 0.15  # of the highest that the batch allows
RANK_LOSS = 1 / 3  # of the highest seen so far
MARGIN = 0.02  # by which the cosine of matched pairs must be above that of mismatched ones
SETTLED = 100  # steps; before, and before the warm-up is over, ranks dip and pairs look alike in healthy runs too


@torch.no_grad()
def health(e: Embeddings) -> dict[str, torch.Tensor]:
    """Effective rank of each modality, and the mean cosine of matched and of mismatched pairs, float32[] each.

    A pair's cosine is the mean of cos(h_v(z_v), z_t) and cos(z_v, h_t(z_t)). The means over all pairs come from sums
    of rows, without the B x B matrix.
    """
    matched_texts, mismatched_texts = _cosines(e.to_text, e.z_t)
    matched_images, mismatched_images = _cosines(e.to_image, e.z_v)
    return {
        "rank_image": effective_rank(e.z_v),
        "rank_text": effective_rank(e.z_t),
        "cosine_matched": torch.stack([matched_texts, matched_images]).mean(),
        "cosine_mismatched": torch.stack([mismatched_texts, mismatched_images]).mean(),
    }


def _cosines(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosine of rows [B, E] with the same index, and of rows with different ones."""
    a, b, rows = normalize(a.float()), normalize(b.float()), len(a)
    matched = (a * b).sum()
    all_pairs = a.sum(0) @ b.sum(0)  # sum_ij a_i . b_j
    return matched / rows, (all_pairs - matched) / (rows * (rows - 1))


def collapse(values: dict[str, float], peaks: dict[str, float], attainable: int) -> str | None:
    """What in `values` of `health` looks like collapse, in one line, or None.

    peaks: the highest ranks seen so far. attainable: the highest rank possible, min(E, rows - 1) for `rows` that were
    embedded together.
    """
    found = []
    for modality in ("image", "text"):
        rank, peak = values[f"rank_{modality}"], peaks[f"rank_{modality}"]
        if rank < LOW_RANK * attainable:
            found.append(f"the {modality} embeddings' effective rank is {rank:.1f} of {attainable}")
        elif rank < RANK_LOSS * peak:
            found.append(f"the {modality} embeddings' effective rank fell from {peak:.1f} to {rank:.1f}")
    matched, mismatched = values["cosine_matched"], values["cosine_mismatched"]
    if matched - mismatched < MARGIN:
        found.append(f"matched pairs (cosine {matched:.2f}) are no closer than mismatched ones ({mismatched:.2f})")
    return "collapse? " + "; ".join(found) if found else None
