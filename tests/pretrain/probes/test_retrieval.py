"""Retrieval and the spread of embeddings against literals; caption pools with unusable pairs."""

import math

import pytest
import torch
from tiny.pictures import numbered
from tiny.tars import pair, write_tar

from pretrain.config import from_preset
from pretrain.data.source import open_captions
from pretrain.objective import Embeddings
from pretrain.probes.retrieval import caption_pool, expected_sigreg, recall_at, recalls, spread, usable_pairs
from pretrain.probes.watch import Watch
from pretrain.sigreg import random_directions, sigreg
from vlm.errors import UserError


def test_recall_takes_an_equal_caption_for_the_images_own():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.2], [0.3, 0.9, 0.1]])
    assert recall_at(scores, ["a", "b", "c"], 1) == pytest.approx(1 / 3)
    assert recall_at(scores, ["a", "a", "c"], 1) == pytest.approx(2 / 3)
    assert recall_at(scores, ["a", "b", "c"], 3) == 1.0


def test_the_two_directions_of_retrieval_differ():
    """Image i points at caption i, except the last: it points at caption 0, more closely than image 0 does."""
    z_t = torch.eye(6)
    z_v = 0.9 * torch.eye(6) + 0.1
    z_v[5] = torch.eye(6)[0]
    found = recalls(Embeddings(z_v, z_t, z_v, z_t), list("abcdef"))
    assert found["image_to_text_r1"] == pytest.approx(5 / 6)
    assert found["text_to_image_r1"] == pytest.approx(4 / 6)  # captions 0 and 5 lose theirs
    assert found["text_to_image_r5"] == pytest.approx(5 / 6)  # image 5 is the least like caption 5


def test_spread_of_normal_and_of_collapsed_embeddings():
    z = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    flat = z.clone()
    flat[:, 8:] = 0
    found = spread(Embeddings(z, flat, z, z))
    assert found["rank_image"] > 15.9 and found["rank_text"] == pytest.approx(8, abs=0.1)
    assert found["sigreg_image"] == pytest.approx(found["sigreg_normal"], rel=0.1)
    assert found["sigreg_text"] > 10 * found["sigreg_normal"]
    directions = random_directions(16, 4096, 0, 0, "probe")
    assert found["sigreg_text"] == float(sigreg(flat, directions))


def test_the_expectation_of_sigreg_is_the_mean_over_normal_samples():
    generator = torch.Generator().manual_seed(0)
    draws = [
        float(sigreg(torch.randn(50, 4, generator=generator), random_directions(4, 64, 0, draw, 0)))
        for draw in range(800)
    ]
    mean = sum(draws) / len(draws)
    error = math.sqrt(sum((draw - mean) ** 2 for draw in draws) / len(draws) ** 2)
    assert abs(mean - expected_sigreg()) < 4 * error and error < 0.02 * mean


def write_pairs(path, images):
    """Write a tar of these images; the caption of each is its place."""
    write_tar(
        path,
        [
            member
            for index, image in enumerate(images)
            for member in pair(str(index), image, b"  pair  %d " % index, suffix="jpg")
        ],
    )


def test_a_pool_passes_over_what_cannot_be_used(tmp_path, capsys):
    write_pairs(tmp_path / "a.tar", [b"no image", numbered(1), numbered(2)[:45], *map(numbered, range(3, 8)), b"no"])
    data = open_captions(tmp_path)
    images, captions = caption_pool(data, 5)
    assert captions == [f"pair {number}" for number in (1, 3, 4, 5, 6)]
    assert [image.getpixel((8, 8))[0] for image in images] == [1, 3, 4, 5, 6]
    assert "2 pairs that cannot be used were passed over for the pool of 5\n" in capsys.readouterr().err
    assert usable_pairs(data, 100)[1:] == ([f"pair {number}" for number in (1, 3, 4, 5, 6, 7)], 3)
    with pytest.raises(UserError, match="holds 6 usable pairs: give --pool 6 or less"):
        caption_pool(data, 7)
    with pytest.raises(UserError, match="a pool of 4: R@5 needs 5"):
        caption_pool(data, 4)
    assert caption_pool(data)[1] == [f"pair {number}" for number in (1, 3, 4, 5, 6, 7)]


def test_a_run_refuses_a_pool_too_small_before_its_first_step(tmp_path, tiny_encoder):
    write_pairs(tmp_path / "a.tar", [b"no image", *map(numbered, range(4))])
    with pytest.raises(UserError, match="holds 4 usable pairs: R@5 needs 5 or more"):
        Watch(tiny_encoder, from_preset("tiny", probe_every=5, probe_data=str(tmp_path)))
