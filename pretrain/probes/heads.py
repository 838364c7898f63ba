"""Probes of frozen features: k nearest neighbours, a linear and an attentive classifier.

No setting ever sees the validation split: weight decay is chosen on a held-out part of the training split.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import tee

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.probes.features import in_order, shuffled
from pretrain.probes.tokens import PatchTokens
from vlm.errors import UserError
from vlm.run.progress import progress
from vlm.run.schedule import cosine

NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's
HELD_OUT = 10  # one row of so many
RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # strongest first: each fit starts from the one before
DECAYS = (10.0, 1.0, 0.1, 0.01)
LEARNING_RATE, MIN_STEPS = 1e-3, 500
ELEMENTS = 1 << 26  # of the largest matrix that is formed at a time


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows of float[B, C] whose largest score is at the label."""
    return int((scores.argmax(1) == labels).sum()) / len(labels)


def split_rows(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to fit on and rows held out: a tenth of each class, rounded up, keyed by the seed, but no only row.

    Raises: UserError if every class has a single row.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    parts = []
    for label in labels.unique():
        rows = order[labels[order] == label]
        parts.append(rows[: -(-len(rows) // HELD_OUT) if len(rows) > 1 else 0])
    outside = torch.cat(parts).sort().values
    if not len(outside):
        raise UserError("every class of the train split has one image: weight decay is chosen on a second one")
    inside = torch.ones(len(labels), dtype=torch.bool)
    inside[outside] = False
    return inside.nonzero()[:, 0], outside


def knn_scores(train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int = NEIGHBOURS) -> Tensor:
    """DINO's weighted k-NN, float32[test rows, classes]: the k most similar train rows vote, each exp(cos / 0.07).

    train: float[B, D] with labels int64[B]; test: float[B', D].
    Raises: UserError if train has fewer than k rows.
    """
    if len(train) < k:
        raise UserError(f"k-NN asks {k} neighbours, the train split has {len(train)} images: give {k} or more")
    train, test = functional.normalize(train, dim=1), functional.normalize(test, dim=1)
    similarity, neighbour = [], []  # [rows, k] of each piece of test, so that no product is too large
    for rows in test.split(max(1, ELEMENTS // len(train))):
        nearest = (rows @ train.T).topk(k, dim=1)
        similarity.append(nearest.values.cpu())
        neighbour.append(nearest.indices.cpu())
    weight = (torch.cat(similarity) / TEMPERATURE).exp()
    voted = labels.cpu()[torch.cat(neighbour)]  # int64[B', k]
    votes = torch.zeros(len(test), classes)  # on the CPU: a GPU adds them up in an order of its own
    return votes.scatter_add_(1, voted, weight).to(test.device)


Linear = tuple[Tensor, Tensor]  # W [D, C], b [C]


def fit_linear(x: Tensor, y: Tensor, loss: Callable, ridge: float, start: Linear | int) -> Linear:
    """(W [D, C], b [C]) that minimise mean loss(x W + b, y) + ridge |W|^2: L-BFGS over all rows, no random number.

    loss: the mean over rows [b, C] and their targets. start: where to start, or C, to start from zero.
    """
    if isinstance(start, int):
        start = x.new_zeros(x.shape[1], start), x.new_zeros(start)
    weight, bias = (part.clone().requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")
    rows = max(1, ELEMENTS // len(bias))

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = ridge * weight.square().sum()
        total.backward()
        # The rows come in pieces, whose gradients add up: each piece counts by its share of the rows.
        for part, target in zip(x.split(rows), y.split(rows)):
            value = loss(part @ weight + bias, target) * (len(part) / len(x))
            value.backward()
            total = total + value
        return total.detach()

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def standardised(train: Tensor, *others: Tensor) -> list[Tensor]:
    """All of them less the mean of `train`, over its standard deviation, feature by feature."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    return [(part - mean) / std for part in (train, *others)]


def linear_probe(train: Tensor, labels: Tensor, *tests: Tensor, classes: int, seed: int) -> tuple[list[Tensor], float]:
    """Softmax regression on standardised features: (float32[rows, classes] for each of `tests`, the ridge chosen).

    The ridge is the one of `RIDGES` with the least cross-entropy on the held-out part of train (its accuracy there is
    a noisy guide if images are few); the fit with it is then made on all of train.
    """
    train, *others = standardised(train, *tests)
    inside, outside = split_rows(labels.cpu(), seed)
    x, y = train[inside], labels[inside]
    fit: Linear | int = classes
    fits, losses = [], []
    for ridge in RIDGES:
        weight, bias = fit = fit_linear(x, y, functional.cross_entropy, ridge, fit)
        fits.append(fit)
        losses.append(functional.cross_entropy(train[outside] @ weight + bias, labels[outside]))
    best = int(torch.stack(losses).argmin())
    weight, bias = fit_linear(train, labels, functional.cross_entropy, RIDGES[best], fits[best])
    return [rows @ weight + bias for rows in others], RIDGES[best]


class Standardise(nn.Module):
    """x [..., D] -> (x - mean) / std, feature by feature."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class AttentiveProbe(nn.Module):
    """One cross-attention query over patch tokens, then a linear classifier: [B, N, D] -> [B, classes].

    A query that does not depend on the input meets the keys in one product: q_h . (W_h x) = (W_h^T q_h) . x. So each
    head's query and key projection are one learned vector; the softmax ignores their bias.
    """

    def __init__(self, width: int, heads: int, classes: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads, bias=False)
        self.value = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        attention = self.query(tokens).softmax(dim=1)  # [B, N, heads], over the tokens
        values = self.value(tokens).unflatten(-1, (self.heads, -1))  # [B, N, heads, D / heads]
        read = torch.einsum("bnh,bnhd->bhd", attention, values).flatten(1)  # [B, D]
        return self.classifier(read)


def training_batches(
    tokens: PatchTokens, rows: Tensor, targets: Callable[[list[int]], Tensor], size: int, seed: int
) -> tuple[int, Iterator[tuple[Tensor, Tensor]]]:
    """The number of steps and the (tokens, targets) of each: `tokens.epochs` of `rows`, and at least `MIN_STEPS`."""
    steps = max(MIN_STEPS, tokens.epochs * (len(rows) // min(size, len(rows))))
    # Tokens are read a batch ahead of the targets: each has an iterator over the row numbers.
    chosen, same = tee(rows[places].tolist() for places in shuffled(len(rows), size, steps, seed))
    return steps, zip(tokens.batches(chosen), map(targets, same))


def train_heads(
    heads: Sequence[nn.Module], decays: Sequence[float], batches: Iterable, loss: Callable, steps: int, label: str
) -> None:
    """AdamW on every head, each with its weight decay, over the same (tokens, targets) batches; lr falls to zero."""
    optimizers = [torch.optim.AdamW(_groups(head, decay), fused=True) for head, decay in zip(heads, decays)]
    with progress(steps, label, "step") as bar:
        for step, (tokens, targets) in enumerate(batches):
            for head, optimizer in zip(heads, optimizers):
                for group in optimizer.param_groups:
                    group["lr"] = cosine(step, steps, 0, LEARNING_RATE, 0.0)
                optimizer.zero_grad()
                loss(head(tokens), targets).backward()
                optimizer.step()
            bar.update()


def _groups(head: nn.Module, decay: float) -> list[dict]:
    """One group a parameter: matrices decay, biases do not."""
    return [{"params": [part], "weight_decay": decay if part.ndim > 1 else 0.0} for part in head.parameters()]


def attentive_probe(
    tokens: PatchTokens, labels: Tensor, heads: int, classes: int, seed: int, batch: int = 256
) -> tuple[nn.Module, float]:
    """The attentive classifier of patch tokens, and its weight decay: the best of `DECAYS` on the held-out part.

    One probe for each learns from the same batches of the rest; least cross-entropy is best.
    """
    inside, outside = split_rows(labels.cpu(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        standardise = Standardise(tokens.mean, tokens.std)
        first = nn.Sequential(standardise, AttentiveProbe(len(tokens.mean), heads, classes)).to(labels.device)
    probes = [deepcopy(first) for _ in DECAYS]
    steps, batches = training_batches(tokens, inside, lambda rows: labels[rows], batch, seed)
    train_heads(probes, DECAYS, batches, functional.cross_entropy, steps, "attentive probe")

    losses = torch.zeros(len(DECAYS))
    with torch.no_grad():
        held = [outside[rows.start : rows.stop].tolist() for rows in in_order(len(outside))]
        for part, rows in zip(tokens.batches(held), held):
            for number, probe in enumerate(probes):
                losses[number] += functional.cross_entropy(probe(part), labels[rows], reduction="sum").cpu()
    best = int(losses.argmin())
    return probes[best], DECAYS[best]
