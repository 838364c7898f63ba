"""The probes' numbers against slow, obvious ones."""

import math

import pytest
import torch

from pretrain.objective import effective_rank
from pretrain.probes import Presence, area_under_curve, cross_modal_scores, linear_probe, recall_at


def test_area_under_curve_counts_the_pairs_in_order_and_ties_half():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40,), generator=generator).float()  # many ties
    labels = torch.rand(40, generator=generator) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert area_under_curve(scores, labels) == pytest.approx(float(sum(pairs)) / len(pairs))


def test_recall_takes_an_equal_caption_for_the_images_own():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.2], [0.3, 0.9, 0.1]])
    assert recall_at(scores, ["a", "b", "c"], 1) == pytest.approx(1 / 3)
    assert recall_at(scores, ["a", "a", "c"], 1) == pytest.approx(2 / 3)
    assert recall_at(scores, ["a", "b", "c"], 3) == 1.0


def test_scores_are_the_mean_of_both_directions():
    z_v, z_t = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    to_text, to_image = torch.tensor([[1.0, 1.0]]), torch.tensor([[5.0, 0.0]])
    expected = 0.5 * (math.sqrt(0.5) + 1.0)  # cos(h_v(z_v), z_t) = cos 45 degrees, cos(z_v, h_t(z_t)) = 1
    assert cross_modal_scores(z_v, z_t, to_text, to_image).item() == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "width"), [(400, 4), (4, 400)])
def test_effective_rank_of_equal_and_of_collapsed_spectra(rows, width):
    basis = torch.linalg.qr(torch.randn(400, 5, generator=torch.Generator().manual_seed(1)))[0]
    basis = torch.linalg.qr(torch.cat([torch.ones(400, 1), basis], 1))[0][:, 1:4]  # three centred, equal directions
    z = basis @ torch.eye(3, 4) if rows == 400 else None
    if z is None:
        z = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]) @ torch.ones(1, 400)
    assert effective_rank(z).item() == pytest.approx(3.0 if rows == 400 else 1.0, abs=1e-3)


def test_linear_probe_separates_what_is_separable_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(600, 5, generator=generator)
    labels = torch.stack([features[:, 2] > 0, torch.rand(600, generator=generator) < 0.5], dim=1)
    areas = linear_probe(Presence(features[:400], labels[:400]), Presence(features[400:], labels[400:]))
    assert areas[0] > 0.99 and abs(areas[1] - 0.5) < 0.1
