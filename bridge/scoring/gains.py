"""The gain of one model over another, as tables have it: in one benchmark, or in the mean of several."""

from collections.abc import Mapping, Sequence

from bridge.scoring.bootstrap import Images, Scores, mean_gain
from bridge.scoring.joining import few
from vlm.errors import UserError

Compared = tuple[Scores, Scores, Images]  # after, before, question id -> image


def compared(after: Mapping, before: Mapping) -> Compared:
    """Two per_question files of one benchmark, {"scores", "images"}.

    Raises: UserError if questions of the same ids are about other images: POPE numbers all of its sets alike.
    """
    ours, theirs = after["images"], before["images"]
    if other := [key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]]:
        raise UserError(
            f"the two results are not over the same questions: {len(other)} are about other images ({few(other)})"
        )
    return after["scores"], before["scores"], ours


def gain(benchmarks: Mapping[str, Compared]) -> dict:
    """Mean gain over the benchmarks by name, with its interval, as `mean_gain` gives it.

    In POPE each category counts alike, as in its headline, however many questions it has.
    Raises: UserError if a benchmark's two are over different questions, or none.
    """
    parts: list[Compared] = []
    weights: list[float] = []
    for name, each in benchmarks.items():
        own = _categories(each) if name == "pope" else [each]
        parts += own
        weights += [1 / len(own)] * len(own)
    return mean_gain(parts, weights=weights)


def _categories(pope: Compared) -> Sequence[Compared]:
    """POPE's scores by category, which stands before the "/" of a question's id."""
    after, before, images = pope
    names = list(dict.fromkeys(key.rpartition("/")[0] for key in (*after, *before)))

    def of(category: str, values: Mapping) -> dict:
        return {key: value for key, value in values.items() if key.rpartition("/")[0] == category}

    return [(of(name, after), of(name, before), images) for name in names] or [pope]
