"""Which objects a picture shows: the area under the curve against counted pairs, and made-up features."""

import math

import pytest
import torch

from pretrain.probes.objects import area_under_curve, presence_areas


def test_area_under_curve_counts_the_pairs_in_order_and_ties_half():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40,), generator=generator).float()  # many ties
    labels = torch.rand(40, generator=generator) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert area_under_curve(scores, labels) == pytest.approx(float(sum(pairs)) / len(pairs))
    assert math.isnan(area_under_curve(scores, torch.ones(40, dtype=torch.bool)))


def test_presence_is_found_where_it_can_be_and_nowhere_else():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 5, generator=generator)
    labels = torch.stack([x[:, 2] > 0, torch.rand(600, generator=generator) < 0.5], dim=1)
    areas = presence_areas(x[:400], labels[:400], x[400:], labels[400:])
    assert areas[0] > 0.99 and abs(areas[1] - 0.5) < 0.1
