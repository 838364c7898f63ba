"""How sure a gain between two models on the same questions is."""

from collections.abc import Mapping, Sequence

import numpy as np

from bridge.scoring.joining import few
from vlm.errors import UserError

CHUNK = 500  # samples drawn at once: bounds the memory

Scores = Mapping[str, float]  # question id -> score
Images = Mapping[str, str]  # question id -> image


def paired_gain(
    after: Scores, before: Scores, groups: Images | None = None, samples: int = 10_000, seed: int = 0
) -> dict:
    """Mean of `after` - `before` and its 95 % percentile bootstrap interval.

    after, before: question id -> score, the `per_question` of two score dicts; both must have the same ids.
    groups: question id -> image. Whole images are then resampled: questions about one image are not independent, and
        resampling them singly gives intervals that are too narrow.

    Returns gain, low and high in the unit of the scores, questions and samples. The same seed gives the same interval.
    Raises: UserError if the two are over different questions, or over none.
    """
    return mean_gain([(after, before, {key: key for key in after} if groups is None else groups)], samples, seed)


def mean_gain(
    benchmarks: Sequence[tuple[Scores, Scores, Images]],
    samples: int = 10_000,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> dict:
    """Mean over benchmarks of the `paired_gain` of each, and its 95 % percentile bootstrap interval.

    benchmarks: after, before and groups of each, as `paired_gain` takes them. An image that several of them ask about
        is drawn for all of them at once. It is drawn among the images that the same benchmarks share, so that every
        sample has as many images of each benchmark as there are.
    weights: of the benchmarks in the mean; None: all alike.

    Returns what `paired_gain` returns. Raises: UserError if a benchmark's two are over different questions, or none.
    """
    differences = [_differences(after, before) for after, before, _ in benchmarks]
    names = np.array([groups[key] for after, _, groups in benchmarks for key in after])
    found, image = np.unique(names, return_inverse=True)  # image: the number of every question's
    sums = np.zeros((len(found), len(benchmarks)))  # [images, benchmarks]: differences
    sizes = np.zeros((len(found), len(benchmarks)))  # [images, benchmarks]: questions
    starts = np.cumsum([len(each) for each in differences])[:-1]
    for column, (own, members) in enumerate(zip(differences, np.split(image, starts))):
        sums[:, column] = np.bincount(members, weights=own, minlength=len(found))
        sizes[:, column] = np.bincount(members, minlength=len(found))
    shares = np.ones(len(benchmarks)) if weights is None else np.array(weights)
    gains = _resampled(sums, sizes, samples, np.random.default_rng(seed)) @ shares / shares.sum()
    low, high = np.quantile(gains, [0.025, 0.975])
    gain = np.average([own.mean() for own in differences], weights=shares)
    return {"gain": float(gain), "low": float(low), "high": float(high), "questions": len(names), "samples": samples}


def _differences(after: Scores, before: Scores) -> np.ndarray:
    """float64[questions], in the order of `after`."""
    if differ := after.keys() ^ before.keys():
        raise UserError(f"the two results are not over the same questions: {len(differ)} differ ({few(differ)})")
    if not after:
        raise UserError("there are no questions to compare")
    return np.array([after[key] - before[key] for key in after], dtype=np.float64)


def _resampled(sums: np.ndarray, sizes: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Each benchmark's gain in each sample of images.

    sums, sizes: float64[images, benchmarks]; returns float64[samples, benchmarks].
    """
    # Only how often each kind of image is drawn matters, so a multinomial over the kinds is the same bootstrap, faster.
    # Rounded, or sums of decimals that differ in the last bit would be kinds of their own.
    rows = np.concatenate([sums.round(9), sizes], axis=1)  # [images, 2 x benchmarks]
    patterns, pattern = np.unique(sizes > 0, axis=0, return_inverse=True)  # which benchmarks ask about an image
    shared = [
        np.unique(rows[pattern.reshape(-1) == number], axis=0, return_counts=True) for number in range(len(patterns))
    ]
    gains = []
    for start in range(0, samples, CHUNK):
        chunk = min(CHUNK, samples - start)
        totals = np.zeros((chunk, rows.shape[1]))
        for kinds, counts in shared:
            totals += rng.multinomial(counts.sum(), counts / counts.sum(), size=chunk) @ kinds  # [chunk, kinds] @ kinds
        drawn_sums, drawn_sizes = np.split(totals, 2, axis=1)  # [chunk, benchmarks] each
        gains.append(drawn_sums / drawn_sizes)
    return np.concatenate(gains)
