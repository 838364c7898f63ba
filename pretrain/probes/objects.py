"""Which objects does an image show? A linear probe on the frozen CLS, one ROC AUC an object name."""

import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.probes.features import cls_features
from pretrain.probes.heads import fit_linear, standardised
from pretrain.probes.labelled import image_files
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError
from vlm.files import read_json

RIDGE = 1e-3
TRAIN_SCENES, TEST_SCENES = 2000, 1000


def read_scenes(encoder: VisionEncoder, gqa: Path, split: str, limit: int) -> tuple[Tensor, list[set[str]]]:
    """CLS float32[B, W] of the first `limit` images of GQA's scene graphs, and the names of what each shows.

    Raises: UserError if the file is none of scene graphs, or an image is not there.
    """
    file = gqa / f"{split}_sceneGraphs.json"
    graphs = read_json(file)
    if not isinstance(graphs, dict) or not graphs:
        raise UserError(f"{file} holds no scene graphs: it must be a JSON object with an entry an image, as GQA's is")
    paths, shown = [], []
    for image, graph in islice(graphs.items(), limit):
        path, drawn = gqa / "images" / f"{image}.jpg", gqa / "images" / f"{image}.png"
        paths.append(drawn if drawn.exists() else path)
        shown.append(_names(graph, f"{file}: the scene graph of image {image}"))
    return cls_features(encoder, image_files(paths), split), shown


def _names(graph: Any, where: str) -> set[str]:
    """The names of a scene graph's objects. Raises: UserError, which begins with `where`, if it is of another form."""
    things = graph.get("objects") if isinstance(graph, dict) else None
    names = set()
    for thing in things.values() if isinstance(things, dict) else [None]:
        name = thing.get("name") if isinstance(thing, dict) else None
        if not isinstance(name, str):
            raise UserError(f'{where} has no "objects" that each have a "name": fetch the file again')
        names.add(name)
    return names


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """ROC AUC of scores float[B] for labels bool[B], ties counted half (Mann-Whitney); NaN without both labels."""
    place = scores.unique(return_inverse=True)[1]  # int64[B], among the different scores, lowest first
    counts = torch.bincount(place)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]  # 1 .. B, the mean of their ranks for equal scores
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives * negatives:
        return math.nan
    lowest_sum = positives * (positives + 1) / 2  # of the positives' ranks, when all of them come first
    return float((ranks[labels].sum() - lowest_sum) / (positives * negatives))


def presence_areas(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> list[float]:
    """One logistic regression per name on standardised features, fitted on `train`; its AUC on `test`, per name.

    train, test: float[B, D] with labels bool[B, C]. NaN for a name that `test` has on all images or on none.
    """
    x, other = standardised(train, test)
    loss = functional.binary_cross_entropy_with_logits
    weight, bias = fit_linear(x, labels.float(), loss, RIDGE, labels.shape[1])
    return [area_under_curve(*of_name) for of_name in zip((other @ weight + bias).T, test_labels.T)]


def object_probe(encoder: VisionEncoder, gqa: str | Path) -> dict:
    """How well CLS tells which objects an image shows: fitted on GQA's train scenes, AUC on val scenes.

    Raises: UserError if scene graphs or images cannot be read, or no name is on some of the scenes and not on others.
    """
    gqa = Path(gqa)
    train, shown = read_scenes(encoder, gqa, "train", TRAIN_SCENES)
    names = sorted(set().union(*shown))
    if len(train) < 2 or not names:
        raise UserError(f"{gqa}/train_sceneGraphs.json names no objects: the probe needs labelled scenes")
    test, test_shown = read_scenes(encoder, gqa, "val", TEST_SCENES)
    # Which of the names each image shows: bool[B, C].
    labels = torch.tensor([[name in image for name in names] for image in shown], device=train.device)
    test_labels = torch.tensor([[name in image for name in names] for image in test_shown], device=test.device)
    areas = presence_areas(train, labels, test, test_labels)
    # The mean runs over the names that some of the val scenes have and some have not.
    per_name = {name: area for name, area in zip(names, areas) if not math.isnan(area)}
    if not per_name:
        raise UserError(f"{gqa}/val_sceneGraphs.json shows every object on all scenes or on none: no AUC is defined")
    return {"auc": sum(per_name.values()) / len(per_name), "names": len(per_name), "auc_per_name": per_name}
