"""Is training collapsing? What a batch's embeddings show of it, and when that is a reason to warn."""

import torch
from torch.nn.functional import normalize

from pretrain.objective import Embeddings, effective_rank


@torch.no_grad()
def health(e: Embeddings) -> dict[str, torch.Tensor]:
    """Effective rank of each modality, and the mean cosine of matched and of mismatched pairs, float32[] each.

    A pair's cosine is the mean of cos(h_v(z_v), z_t) and cos(z_v, h_t(z_t)). The means over all pairs come from sums
    of rows, without the B x B matrix.
    """
    matched, mismatched = zip(_cosines(e.to_text, e.z_t), _cosines(e.to_image, e.z_v))
    return {
        "rank_image": effective_rank(e.z_v),
        "rank_text": effective_rank(e.z_t),
        "cosine_matched": torch.stack(matched).mean(),
        "cosine_mismatched": torch.stack(mismatched).mean(),
    }


def _cosines(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosine of rows [B, E] with the same index, and of rows with different ones."""
    a, b, rows = normalize(a.float()), normalize(b.float()), len(a)
    same = (a * b).sum()
    return same / rows, (a.sum(0) @ b.sum(0) - same) / (rows * (rows - 1))
