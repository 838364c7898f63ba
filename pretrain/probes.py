"""What a frozen encoder has learnt: retrieval, effective rank, and a linear probe for objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pretrain.objective import effective_rank
from vlm.encoder import Encoder
from vlm.errors import UserError
from vlm.images import load_image
from vlm.logs import read_json


@torch.no_grad()
def embed(encoder: Encoder, images: Sequence, captions: Sequence[str], batch: int = 256) -> tuple[torch.Tensor, ...]:
    """PIL images and captions -> z_v, z_t, h_v(z_v), h_t(z_t), each float32[len, E] on the CPU."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = torch.stack([encoder.transform(image) for image in images[start : start + batch]])
        z_v = encoder.embed_images(pixels.to(encoder.device))
        z_t = encoder.embed_texts(captions[start : start + batch])
        parts.append([part.float().cpu() for part in (z_v, z_t, encoder.predict_text(z_v), encoder.predict_image(z_t))])
    return tuple(torch.cat(column) for column in zip(*parts))


def cross_modal_scores(
    z_v: torch.Tensor, z_t: torch.Tensor, to_text: torch.Tensor, to_image: torch.Tensor
) -> torch.Tensor:
    """Similarity of images to captions, float32[B_v, B_t]: the mean of cos(h_v(z_v), z_t) and cos(z_v, h_t(z_t)).

    This is how the paper reads LeVLJEPA's zero-shot: each predictor maps one modality into the other's space.
    """
    z_v, z_t, to_text, to_image = (nn.functional.normalize(part, dim=1) for part in (z_v, z_t, to_text, to_image))
    return 0.5 * (to_text @ z_t.T + z_v @ to_image.T)


def recall_at(scores: torch.Tensor, captions: Sequence[str], k: int) -> float:
    """Share of images whose own caption is among the k most similar; an equal caption of another image also counts."""
    top = scores.topk(k, dim=1).indices.tolist()
    return sum(any(captions[j] == captions[i] for j in row) for i, row in enumerate(top)) / len(captions)


def retrieval(encoder: Encoder, images: Sequence, captions: Sequence[str]) -> dict[str, float]:
    """Image-to-caption recall over the given pool, and each modality's effective rank."""
    z_v, z_t, to_text, to_image = embed(encoder, images, captions)
    scores = cross_modal_scores(z_v, z_t, to_text, to_image)
    return {
        "r_at_1": recall_at(scores, captions, 1),
        "r_at_5": recall_at(scores, captions, 5),
        "pool": len(captions),
        "rank_image": float(effective_rank(z_v)),
        "rank_text": float(effective_rank(z_t)),
    }


@dataclass(frozen=True)
class Presence:
    """CLS features float32[B, W] of images and which object names each shows, bool[B, C]."""

    features: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def presence(encoder: Encoder, gqa: Path, split: str, names: Sequence[str] | None, limit: int) -> tuple[Presence, list]:
    """Read GQA scene graphs: the first `limit` images, their CLS features, and the object names they contain.

    names: the columns; None takes every name found, sorted. Raises `UserError` where the scene graphs are missing.
    """
    graphs = list(read_json(gqa / f"{split}_sceneGraphs.json").items())[:limit]
    found = [{thing["name"] for thing in graph["objects"].values()} for _, graph in graphs]
    names = list(names) if names is not None else sorted(set().union(*found))
    features = []
    for start in range(0, len(graphs), 256):
        images = [load_image(gqa / "images" / f"{image}.jpg") for image, _ in graphs[start : start + 256]]
        pixels = torch.stack([encoder.transform(image) for image in images])
        features.append(encoder.image.features(pixels.to(encoder.device)).float().cpu())
    labels = torch.tensor([[name in present for name in names] for present in found])
    return Presence(torch.cat(features), labels), names


def area_under_curve(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """ROC AUC of scores float[B] for labels bool[B], ties counted half: the Mann-Whitney statistic."""
    order = scores.unique(return_inverse=True)[1]
    counts = torch.bincount(order)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[order]
    positives, negatives = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def linear_probe(train: Presence, test: Presence, ridge: float = 1e-3, steps: int = 200) -> list[float]:
    """One logistic regression per name on standardised features, fitted on `train`; its AUC on `test`, per name."""
    mean, std = train.features.mean(0), train.features.std(0).clamp(min=1e-6)
    x, y = (train.features - mean) / std, train.labels.float()
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y) + ridge * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        scores = (test.features - mean) / std @ weight + bias
    return [area_under_curve(scores[:, column], test.labels[:, column]) for column in range(y.shape[1])]


def object_probe(encoder: Encoder, gqa: str | Path, train_images: int = 2000, test_images: int = 1000) -> dict:
    """How well CLS tells which objects an image shows: linear probe fitted on GQA's train scenes, AUC on val scenes."""
    gqa = Path(gqa)
    train, names = presence(encoder, gqa, "train", None, train_images)
    test, _ = presence(encoder, gqa, "val", names, test_images)
    if len(train.features) < 2 or not names:
        raise UserError(f"{gqa}/train_sceneGraphs.json names no objects: the probe needs labelled scenes")
    areas = linear_probe(train, test)
    return {"auc": sum(areas) / len(areas), "per_name": dict(zip(names, areas))}
