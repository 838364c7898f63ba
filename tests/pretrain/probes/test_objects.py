"""Which objects a picture shows: the area under the curve against counted pairs, and made-up features."""

import math

import pytest
import torch

from pretrain.probes.objects import area_under_curve, presence_areas, read_scenes
from vlm.errors import UserError


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


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{}", "holds no scene graphs: it must be a JSON object"),
        ("[]", "holds no scene graphs: it must be a JSON object"),
        ('{"7": {"width": 5}}', 'the scene graph of image 7 has no "objects" that each have a "name"'),
        ('{"7": {"objects": {"1": {"name": ["a"]}}}}', "the scene graph of image 7 has no"),
        ('{"7": []}', "the scene graph of image 7 has no"),
    ],
)
def test_scene_graphs_of_another_form_are_one_line(tiny_encoder, tmp_path, written, words):
    (tmp_path / "val_sceneGraphs.json").write_text(written)
    with pytest.raises(UserError, match=words):
        read_scenes(tiny_encoder, tmp_path, "val", 10)


def test_a_missing_image_is_named_as_gqa_names_it(tiny_encoder, tmp_path):
    (tmp_path / "train_sceneGraphs.json").write_text('{"7": {"objects": {"1": {"name": "star"}}}}')
    with pytest.raises(UserError, match=r"cannot read the image .*/images/7\.jpg: No such file"):
        read_scenes(tiny_encoder, tmp_path, "train", 9)
