"""Zero-shot classification: scores, class directions and the words for a class, against literals."""

import math

import pytest
import torch
from torch.nn import functional

from pretrain.probes.zero_shot import CaptionClassifier, cross_modal_scores, read_class_names, spoken_name
from vlm.errors import UserError


def test_scores_are_the_mean_of_both_directions():
    z_v, z_t = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    to_text, to_image = torch.tensor([[1.0, 1.0]]), torch.tensor([[5.0, 0.0]])
    expected = 0.5 * (math.sqrt(0.5) + 1.0)  # cos(h_v(z_v), z_t) = cos 45 degrees, cos(z_v, h_t(z_t)) = 1
    assert cross_modal_scores(z_v, z_t, to_text, to_image).item() == pytest.approx(expected)


def test_without_predictors_the_scores_are_plain_cosines():
    generator = torch.Generator().manual_seed(0)
    z_v, z_t = torch.randn(4, 6, generator=generator), torch.randn(5, 6, generator=generator)
    cosines = functional.cosine_similarity(z_v[:, None], z_t[None], dim=2)
    assert torch.allclose(cross_modal_scores(z_v, z_t, z_v, z_t), cosines, atol=1e-6)


def test_a_class_is_the_mean_direction_of_its_templates(tiny_encoder):
    templates = ["a {}", "the {}!"]
    found = CaptionClassifier.build(tiny_encoder, ["00_red_star", "moon"], templates)
    with torch.no_grad():
        z_t = tiny_encoder.embed_texts(["a moon", "the moon!"])
        for part, expected in ((found.z_t, z_t), (found.to_image, tiny_encoder.predict_image(z_t))):
            assert torch.allclose(part[1], functional.normalize(expected, dim=1).mean(0), atol=1e-6)
        z_t = tiny_encoder.embed_texts(["a red star", "the red star!"])
    assert torch.allclose(found.z_t[0], functional.normalize(z_t, dim=1).mean(0), atol=1e-6)
    for template in ("a star", "{} {}"):
        with pytest.raises(UserError, match=r"needs one \{\}"):
            CaptionClassifier.build(tiny_encoder, ["moon"], [template])


def test_how_classes_are_said(tmp_path):
    names = ("n01440764", "02_wheeled vehicle", "001.Black_footed_Albatross", "fish")
    expected = ["tench", "wheeled vehicle", "Black footed Albatross", "fish"]
    assert [spoken_name(name) for name in names] == expected
    for unnamed in ("7", "n00000000"):  # a WordNet id that is none of ImageNet-1k's
        with pytest.raises(UserError, match=f"the class '{unnamed}' has no name to say: give --class-names"):
            spoken_name(unnamed)
    listed = tmp_path / "names.txt"
    listed.write_text("n01440764 tench, Tinca tinca\n\n7 seven\n")
    given = read_class_names(listed)
    assert given == {"n01440764": "tench", "7": "seven"} and spoken_name("7", given) == "seven"
    with pytest.raises(UserError, match="no line for the class 'fish'"):
        spoken_name("fish", given)
    listed.write_text("polar bear\tice bear, white bear\nred fox a fox\n", encoding="utf-8-sig")
    assert read_class_names(listed) == {"polar bear": "ice bear", "red": "fox a fox"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fish", "the line 'fish' has no name"),
        ("fish\t , x", "the line 'fish\\\\t , x' has no name"),
        ("\tname", "the line 'name' has no class"),
        ("fish one\nfish two", "the class 'fish' has two lines"),
    ],
)
def test_lines_of_class_names_that_are_refused(tmp_path, text, words):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read_class_names(tmp_path / "names.txt")
