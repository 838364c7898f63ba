"""The gain of one model over another: POPE's categories count alike, and other images are other questions."""

import pytest

from bridge.scoring.gains import compared, gain
from vlm.errors import UserError


def test_each_of_popes_categories_counts_alike():
    """One question of random, gained, and three of popular, not: 50 points, though 25 of a hundred questions."""
    after = {"random/1": 100.0, "popular/1": 0.0, "popular/2": 0.0, "popular/3": 0.0}
    pope = (after, dict.fromkeys(after, 0.0), dict.fromkeys(after, "a.jpg"))
    assert gain({"pope": pope}) == {"gain": 50.0, "low": 50.0, "high": 50.0, "questions": 4, "samples": 10_000}
    gqa = ({"7": 0.0}, {"7": 0.0}, {"7": "a.jpg"})
    assert gain({"gqa": gqa, "pope": pope})["gain"] == 25.0  # the mean of both benchmarks
    assert gain({"gqa": (after, *pope[1:])})["gain"] == 25.0  # which has no categories


def test_questions_of_other_images_are_not_compared():
    ours = {"scores": {"random/1": 0.0, "random/2": 0.0}, "images": {"random/1": "a.jpg", "random/2": "b.jpg"}}
    theirs = {**ours, "images": {"random/1": "a.jpg", "random/2": "c.jpg"}}
    with pytest.raises(UserError, match=r"not over the same questions: 1 are about other images \(random/2\)"):
        compared(ours, theirs)
