"""The collapse alarm fires on collapsed embeddings, is silent on healthy ones, and costs no B x B matrix."""

import json
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from pretrain.config import from_preset
from pretrain.health import Rows, collapse, health
from pretrain.objective import Embeddings, effective_rank
from pretrain.recorder import Recorder


def normal(rows=64, dim=32, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def embeddings(z_v, z_t, error=0.5):
    """Predictions that are right up to an error."""
    return Embeddings(z_v, z_t, z_t + error * normal(*z_t.shape, seed=8), z_v + error * normal(*z_v.shape, seed=9))


def judged(e, **peaks):
    values = {name: value.item() for name, value in health(e).items()}
    return collapse(values, {**values, **peaks}, min(e.z_v.shape[1], len(e.z_v) - 1))


def test_cosines_are_the_means_over_pairs():
    e = embeddings(normal(seed=1) + 1, normal(seed=2))
    values = health(e)
    pairs = 0.5 * (
        cosine_similarity(e.to_text[:, None], e.z_t[None], dim=2)
        + cosine_similarity(e.z_v[:, None], e.to_image[None], dim=2)
    )
    assert values["cosine_matched"].item() == pytest.approx(pairs.diagonal().mean().item(), abs=1e-6)
    strangers = pairs[~torch.eye(64, dtype=torch.bool)]
    assert values["cosine_mismatched"].item() == pytest.approx(strangers.mean().item(), abs=1e-6)


def test_silent_on_healthy_embeddings():
    assert judged(embeddings(normal(seed=1), normal(seed=2))) is None
    assert judged(embeddings(normal(seed=1), normal(seed=2), error=3.0)) is None  # early: the predictions are poor


def test_fires_where_a_modality_lost_its_dimensions():
    flat = normal(64, 3, seed=1) @ normal(3, 32, seed=2)
    assert "the image embeddings' effective rank is 3.0 of 32" in judged(embeddings(flat, normal(seed=2)))
    assert "the text embeddings' effective rank is 3.0 of 32" in judged(embeddings(normal(seed=2), flat))
    one_point = normal(1, 32).expand(64, 32)
    assert "matched pairs (cosine 1.00) are no closer than mismatched ones (1.00)" in judged(
        embeddings(one_point, one_point, error=0.0)
    )


def test_fires_where_rank_fell_from_its_peak():
    half = normal(64, 8, seed=1) @ normal(8, 32, seed=2)
    assert judged(embeddings(half, normal(seed=2))) is None
    assert "rank fell from 30.0 to 7." in judged(embeddings(half, normal(seed=2)), rank_image=30.0)
    few = embeddings(normal(8, 32), normal(8, 32, seed=2))  # 8 rows after a stop have a rank of 7 at most
    assert judged(few, rank_image=30.0, rank_text=30.0) is None


def test_fires_where_predictions_know_nothing_of_their_pair():
    e = embeddings(normal(seed=1), normal(seed=2))
    e.to_text, e.to_image = e.to_text.roll(1, 0), e.to_image.roll(1, 0)
    assert "no closer than mismatched" in judged(e)


class Batches(list):
    workers = 0


@pytest.mark.parametrize(("warmup", "fires"), [(3, [101, 103, 105]), (102, [103, 105])])
def test_the_log_has_one_line_when_it_begins_and_the_records_say_so(tmp_path, capsys, warmup, fires):
    config = from_preset("tiny", log_every=2, warmup_steps=warmup, embed_dim=32, batch_size=64)
    recorder = Recorder(tmp_path, config, start=96)
    flat = torch.zeros(64, 32)
    batches: Any = Batches([{}] * 10)
    for step, _ in enumerate(recorder.timing(batches, torch.device("cpu")), start=96):
        metrics = {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(1.0)}
        recorder.rows.add(embeddings(flat, normal(seed=2)))
        if recorder.reads(step):
            metrics |= recorder.rows.health()
        recorder.add(step, 0.1, metrics, {}, [])
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "warning" in record] == fires
    assert ["rank_text" in record for record in records] == [False, True] * 5
    assert all(0 <= record["data_wait_s"] < 1 and "device_idle" not in record for record in records)
    assert records[-1]["warning"].startswith("collapse? the image embeddings' effective rank is 1.0 of 32")
    assert capsys.readouterr().out.count(f"step {fires[0]}: collapse? ") == 1


def test_few_rows_of_many_steps_show_what_one_step_cannot():
    """16 rows of embeddings that live in 4 of 64 dimensions, and move as a whole from step to step."""
    rows, basis = Rows(batch_size=16), normal(4, 64, seed=1)
    for step in range(40):
        z = normal(16, 4, seed=100 + step) @ basis + 10 * normal(1, 64, seed=200 + step)
        rows.add(embeddings(z, normal(16, 64, seed=300 + step)))
    values = {name: value.item() for name, value in rows.health().items()}
    assert len(rows.steps) == 32 and rows.attainable(64, 16) == 64
    assert 3.5 < values["rank_image"] < 4.1 and values["rank_text"] > 55
    assert collapse(values, values, 64) == "collapse? the image embeddings' effective rank is 4.0 of 64"
    alone = {name: value.item() for name, value in health(rows.steps[-1]).items()}
    assert collapse(alone, alone, 15) is None  # what it was before


def test_a_step_that_is_not_finite_hides_no_other():
    rows = Rows(batch_size=16)
    rows.add(embeddings(normal(16, 8, seed=1), normal(16, 8, seed=2)))
    one = {name: value.item() for name, value in rows.health().items()}
    rows.add(embeddings(normal(16, 8, seed=3) * torch.nan, normal(16, 8, seed=4) * torch.nan))
    assert {name: value.item() for name, value in rows.health().items()} == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize(("rows", "width"), [(400, 4), (4, 400)])
def test_effective_rank_of_equal_and_of_collapsed_spectra(rows, width):
    if rows == 400:  # three directions of four, centred and of equal length
        random = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
        basis = torch.linalg.qr(random)[0]
        basis = torch.linalg.qr(torch.cat([torch.ones(400, 1), basis], 1))[0][:, 1:4]
        z, expected = basis @ torch.eye(3, 4), 3.0
    else:  # one direction of four hundred
        z, expected = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]) @ torch.ones(1, 400), 1.0
    assert z.shape == (rows, width)
    assert effective_rank(z).item() == pytest.approx(expected, abs=1e-3)
