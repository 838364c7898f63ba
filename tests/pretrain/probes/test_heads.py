"""The heads of the probes (k-NN, linear, attentive) against slow, obvious ones."""

import math

import pytest
import torch
from torch.nn import functional

from pretrain.probes.heads import (
    AttentiveProbe,
    accuracy,
    attentive_probe,
    fit_linear,
    knn_scores,
    linear_probe,
    split_rows,
)
from vlm.errors import UserError


def test_neighbours_vote_with_the_exponential_of_their_cosine():
    train = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 5.0], [-1.0, 0.0]])  # lengths do not matter
    labels = torch.tensor([0, 1, 1, 2])
    test = torch.tensor([[0.8, 0.6]])  # cosines .8, .6, .6, -.8
    expected = [math.exp(0.8 / 0.07), 2 * math.exp(0.6 / 0.07), 0.0]
    assert knn_scores(train, labels, test, 3, k=3)[0].tolist() == pytest.approx(expected, rel=1e-4)
    assert knn_scores(train, labels, test, 3, k=1)[0].tolist() == pytest.approx([expected[0], 0, 0], rel=1e-4)
    with pytest.raises(UserError, match="k-NN asks 20 neighbours, the train split has 4 images"):
        knn_scores(train, labels, test, 3)


def test_knn_in_pieces_is_knn(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(50, 6, generator=generator), torch.randn(30, 6, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    whole = knn_scores(train, labels, test, 4)
    monkeypatch.setattr("pretrain.probes.heads.ELEMENTS", 350)  # seven rows at a time
    assert torch.allclose(knn_scores(train, labels, test, 4), whole, rtol=1e-5)


def test_a_tenth_of_each_class_is_held_out_and_the_seed_says_which():
    labels = torch.tensor([0] * 30 + [1] * 11 + [2] * 2 + [3])
    inside, outside = split_rows(labels, seed=0)
    assert labels[outside].bincount(minlength=4).tolist() == [3, 2, 1, 0]
    assert sorted(torch.cat([inside, outside]).tolist()) == list(range(44))
    assert outside.tolist() == split_rows(labels, seed=0)[1].tolist() != split_rows(labels, seed=1)[1].tolist()
    with pytest.raises(UserError, match="every class of the train split has one image"):
        split_rows(torch.arange(5), seed=0)


def test_the_linear_fit_is_the_minimum_in_pieces_as_in_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    weight, bias = (part.requires_grad_() for part in fit_linear(x, y, functional.cross_entropy, 1e-2, 3))
    loss = functional.cross_entropy(x @ weight + bias, y) + 1e-2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(float(part.abs().max()) for part in gradients) < 1e-4
    monkeypatch.setattr("pretrain.probes.heads.ELEMENTS", 21)  # seven rows at a time
    assert torch.allclose(fit_linear(x, y, functional.cross_entropy, 1e-2, 3)[0], weight, atol=1e-3)


def test_the_linear_probe_chooses_its_ridge_by_train_alone():
    """300 rows of noise in 100 dimensions and a signal in one: with little ridge the fit is .80 accurate on tests."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(300, 100, generator=generator), torch.randint(0, 2, (300,), generator=generator)
    x[:, 0] += 3 * labels
    test, other = torch.randn(500, 100, generator=generator), torch.randint(0, 2, (500,), generator=generator)
    noise = test.clone()
    test[:, 0] += 3 * other
    (scores, chance), ridge = linear_probe(x, labels, test, noise, classes=2, seed=0)
    assert accuracy(scores, other) > 0.84 and abs(accuracy(chance, other) - 0.5) < 0.1
    assert ridge in (0.1, 0.01)


def attention_by_hand(probe: AttentiveProbe, tokens: torch.Tensor) -> torch.Tensor:
    """The attention of one head and one image at a time."""
    rows = []
    for image in tokens:
        pooled = []
        for head, values in enumerate(probe.value(image).chunk(probe.heads, dim=1)):
            weights = torch.exp(image @ probe.query.weight[head])
            pooled.append((weights[:, None] * values).sum(0) / weights.sum())
        rows.append(probe.classifier(torch.cat(pooled)))
    return torch.stack(rows)


def test_one_query_attends_as_written_out():
    torch.manual_seed(0)
    probe, tokens = AttentiveProbe(6, 2, 3), torch.randn(4, 5, 6)
    assert torch.allclose(probe(tokens), attention_by_hand(probe, tokens), atol=1e-6)


class Needles:
    """Eight noise tokens an image, of which one, anywhere, carries the class: their mean tells little."""

    epochs = 20

    def __init__(self, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 3, (count,), generator=generator)
        self.tokens = torch.randn(count, 8, 12, generator=generator)
        place = torch.randint(0, 8, (count,), generator=generator)
        self.tokens[torch.arange(count), place, self.labels] += 12
        self.mean, self.std = self.tokens.mean((0, 1)), self.tokens.std((0, 1))

    def batches(self, batches):
        return (self.tokens[torch.as_tensor(numbers)] for numbers in batches)


def test_the_attentive_probe_finds_the_token_that_tells(monkeypatch):
    monkeypatch.setattr("pretrain.probes.heads.MIN_STEPS", 100)
    monkeypatch.setattr("pretrain.probes.heads.LEARNING_RATE", 1e-2)
    train, test = Needles(300, 0), Needles(200, 1)
    (probe, decay), again = (attentive_probe(train, train.labels, 2, 3, seed=0, batch=64) for _ in range(2))
    with torch.no_grad():
        scores = probe(test.tokens)
        assert accuracy(scores, test.labels) > 0.98
        assert torch.equal(scores, again[0](test.tokens)) and decay == again[1]
