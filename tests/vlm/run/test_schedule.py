"""Learning-rate schedules at the steps where they change."""

import math
from itertools import pairwise

import pytest

from vlm.run.schedule import SCHEDULES, cosine, longest_warmup, wsd


def test_cosine_warms_up_from_above_zero_and_ends_at_the_floor():
    values = [cosine(step, 110, 10, 2.0, 0.5) for step in range(110)]
    assert values[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert values[10] == 2.0 and values[109] == 0.5
    assert values[60] == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * 50 / 99)))


def test_wsd_is_stable_until_the_last_15_percent():
    values = [wsd(step, 200, 10, 2.0, 0.0) for step in range(200)]
    assert values[0] == pytest.approx(0.2) and set(values[9:171]) == {2.0}
    assert values[199] == pytest.approx(0.0) and values[185] == pytest.approx(1 + math.cos(math.pi * 15 / 29), abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_longest_warmup_reaches_the_peak_and_nothing_jumps(name):
    for steps in (20, 100, 200):
        warmup = longest_warmup(name, steps)
        values = [SCHEDULES[name](step, steps, warmup, 2.0, 0.0) for step in range(steps)]
        assert max(values) == 2.0 and max(abs(a - b) for a, b in pairwise(values[:warmup])) < 2.1 / warmup
        assert values[warmup - 1] == values[warmup] == 2.0
