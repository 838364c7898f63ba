"""Each objective against its formula written out, and against values worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid, normalize

from pretrain import contrastive
from pretrain.config import from_preset
from pretrain.contrastive import LogitScale
from pretrain.objective import Embeddings, clip, levljepa_plus, objective, siglip
from pretrain.sigreg import random_directions, sigreg

WEIGHTS = dict(lambda_image=0.03, lambda_text=0.02, lambda_multi=0.2, directions=24)


def embeddings(views=0, rows=7, dim=5, **scalars):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(rows, dim, generator=generator, dtype=torch.float64) for _ in range(4 + views)]
    stacked = torch.stack(parts[4:]) if views else None
    scalars = {name: torch.tensor(value, dtype=torch.float64) for name, value in scalars.items()}
    return Embeddings(*parts[:4], stacked, **scalars)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def clip_by_definition(e):
    logits = e.scale * normalize(e.z_v) @ normalize(e.z_t).T
    return -0.5 * (log_softmax(logits, 1).diagonal().mean() + log_softmax(logits, 0).diagonal().mean())


def siglip_by_definition(e):
    """The pseudocode of the paper: labels 1 on the diagonal, -1 elsewhere."""
    logits = e.scale * normalize(e.z_v) @ normalize(e.z_t).T + e.bias
    labels = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -logsigmoid(labels * logits).sum() / len(logits)


@pytest.mark.parametrize(("function", "definition"), [(clip, clip_by_definition), (siglip, siglip_by_definition)])
def test_contrastive_value_and_gradients_are_the_definition(monkeypatch, function, definition):
    monkeypatch.setattr(contrastive, "CHUNK", 3)  # 7 captions: chunks of 3, 3 and 1
    e = embeddings(scale=3.0, bias=-2.0)
    inputs = [x.requires_grad_() for x in ((e.z_v, e.z_t, e.scale) + ((e.bias,) if function is siglip else ()))]
    loss, expected = function(e)[0], definition(e)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected.item(), rel=1e-13)
    for got, want in zip(gradients(loss, *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)


def test_contrastive_values_by_hand():
    e = embeddings(rows=2, dim=2, scale=1.0, bias=0.0)
    e.z_v, e.z_t = 3 * torch.eye(2), 0.5 * torch.eye(2)  # cosine 1 for a pair, 0 for strangers, whatever the lengths
    assert clip(e)[0].item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
    e.scale, e.bias = torch.tensor(10.0), torch.tensor(-10.0)
    loss, metrics = siglip(e)
    assert loss.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-10)), rel=1e-6)
    assert metrics["temperature"].item() == pytest.approx(0.1) and metrics["bias"].item() == -10


def test_levljepa_plus_is_the_formula():
    e = embeddings(views=6)
    e.z_v = e.views[:2].mean(0)
    loss, metrics = levljepa_plus(e, **WEIGHTS, seed=3, step=9)
    by_view = [sigreg(z, random_directions(5, 24, 3, 9, view)) for view, z in enumerate(e.views)]
    pull = sum(((z - e.z_v) ** 2).sum() for z in e.views) / (6 * 7 * 5)
    cross = 0.5 * (((e.to_text - e.z_t) ** 2).mean() + ((e.to_image - e.z_v) ** 2).mean())
    image, text = sum(by_view) / 6, sigreg(e.z_t, random_directions(5, 24, 3, 9, "text"))
    assert metrics["multi_view"].item() == pytest.approx(pull.item(), rel=1e-12)
    expected = (1 - 0.03 - 0.02 - 0.2) * cross + 0.03 * image + 0.02 * text + 0.2 * pull
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["levljepa", "levljepa-plus"])
def test_no_gradient_reaches_what_is_predicted(name):
    e = embeddings(views=6)
    config = replace(from_preset("tiny", objective=name), lambda_image=0.0, lambda_text=0.0, lambda_multi=0.0)
    loss, _ = objective(config)(e, step=0)
    assert not loss.requires_grad
    e.to_text.requires_grad_(), e.z_t.requires_grad_(), e.z_v.requires_grad_()
    loss, _ = objective(config)(e, step=0)
    to_text, z_t, z_v = torch.autograd.grad(loss, (e.to_text, e.z_t, e.z_v), allow_unused=True)
    torch.testing.assert_close(to_text, (e.to_text - e.z_t).detach() / e.z_t.numel())
    assert all(gradient is None or not gradient.any() for gradient in (z_t, z_v))


def test_half_precision_embeddings_give_a_float32_loss():
    e = embeddings(views=6, scale=10.0, bias=-10.0)
    half = Embeddings(**{name: x.bfloat16() for name, x in vars(e).items()})
    for name in ("levljepa", "levljepa-plus", "clip", "siglip"):
        compute = objective(from_preset("tiny", objective=name))
        expected, _ = compute(Embeddings(**{name: x.float() for name, x in vars(half).items()}), step=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, metrics = compute(half, step=0)
        assert loss.dtype == torch.float32 and loss.item() == expected.item()
        assert metrics["loss"].item() == loss.item() and not metrics["loss"].requires_grad


def test_scalars_start_where_the_papers_do():
    assert LogitScale("clip").values() == {"logit_scale": pytest.approx(2.6593, abs=1e-4)}
    assert LogitScale("siglip").values() == {"logit_scale": pytest.approx(2.302585), "logit_bias": -10.0}
    scale, bias = LogitScale("clip")()
    assert scale.item() == pytest.approx(1 / 0.07) and bias.item() == 0


def test_temperature_stops_at_its_ceiling_and_comes_back():
    logit_scale = LogitScale("clip")
    logit_scale.scale.data.fill_(5.0)
    scale, _ = logit_scale()
    assert scale.item() == pytest.approx(100) and logit_scale.values()["logit_scale"] == pytest.approx(math.log(100))
    (up,) = torch.autograd.grad(-logit_scale()[0], logit_scale.scale)  # descent would raise it further
    (down,) = torch.autograd.grad(logit_scale()[0], logit_scale.scale)
    assert up.item() == 0 and down.item() == pytest.approx(100)
