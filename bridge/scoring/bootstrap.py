"""How sure a gain between two models on the same questions is."""

from collections.abc import Mapping

import numpy as np

from bridge.scoring.joining import few
from vlm.errors import UserError

CHUNK = 500  # samples drawn at once: bounds the memory


def paired_gain(
    after: Mapping[str, float],
    before: Mapping[str, float],
    groups: Mapping[str, str] | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> dict:
    """Mean of `after` - `before` and its 95 % percentile bootstrap interval.

    after, before: question id -> score, the `per_question` of two score dicts; both must have the same ids.
    groups: question id -> image. Whole images are then resampled: questions about one image are not independent, and
        resampling them singly gives intervals that are too narrow.

    Returns gain, low and high in the unit of the scores, questions and samples. The same seed gives the same interval.
    Raises: UserError if the two are over different questions, or over none.
    """
    if differ := after.keys() ^ before.keys():
        raise UserError(f"the two results are not over the same questions: {len(differ)} differ ({few(differ)})")
    if not after:
        raise UserError("there are no questions to compare")
    differences = np.array([after[key] - before[key] for key in after], dtype=np.float64)  # [questions]
    # The units that are resampled: the sum of the differences and the number of questions of each.
    if groups is None:
        sums, sizes = differences, np.ones(len(differences))
    else:
        _, members = np.unique([groups[key] for key in after], return_inverse=True)
        sums, sizes = np.bincount(members, weights=differences), np.bincount(members).astype(np.float64)
    # Only how often each kind of unit is drawn matters, so a multinomial over the kinds is the same bootstrap, faster.
    # Rounded, or sums of decimals that differ in the last bit would be kinds of their own. kinds: [kinds, 2].
    kinds, counts = np.unique(np.stack([sums.round(9), sizes], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    gains = []
    for start in range(0, samples, CHUNK):
        drawn = rng.multinomial(len(sums), counts / counts.sum(), size=min(CHUNK, samples - start))  # [chunk, kinds]
        gains.append((drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1]))
    low, high = np.quantile(np.concatenate(gains), [0.025, 0.975])
    interval = {"low": float(low), "high": float(high)}
    return {"gain": float(differences.mean()), **interval, "questions": len(differences), "samples": samples}
