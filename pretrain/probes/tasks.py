"""The tasks of pretrain/probe.py: a frozen encoder and what is asked of it -> numbers by name."""

from collections.abc import Callable
from typing import Any

import torch

from pretrain.data.source import open_captions
from pretrain.probes.backgrounds import background_probe
from pretrain.probes.features import PatchTokens, cls_features, in_order, patch_tokens
from pretrain.probes.heads import accuracy, attentive_probe, knn_scores, linear_probe
from pretrain.probes.labelled import Labelled, open_labelled
from pretrain.probes.objects import object_probe
from pretrain.probes.retrieval import caption_pool, retrieval_probe
from pretrain.probes.segmentation import segmentation_probe
from pretrain.probes.settings import ProbeConfig
from pretrain.probes.zero_shot import TEMPLATES, CaptionClassifier, read_class_names
from vlm.encoders.levljepa import Encoder

Numbers = dict[str, Any]  # most are single numbers; auc_per_name and iou_per_label are dicts of them


def splits(config: ProbeConfig) -> tuple[Labelled, Labelled]:
    """The train and the val split of --data, with the same classes."""
    train = open_labelled(config.data, "train", None, config.image_column, config.label_column)
    return train, open_labelled(config.data, "val", train.classes, config.image_column, config.label_column)


def cls_of_splits(encoder: Encoder, train: Labelled, val: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
    """CLS of the images of both splits, float32[B, vision_width] each."""
    return cls_features(encoder, train.images, "train"), cls_features(encoder, val.images, "val")


def judged(scores: torch.Tensor, val: Labelled) -> dict[str, float]:
    """The accuracy of scores float32[B, classes] of the val split."""
    return {"accuracy": accuracy(scores, val.labels.to(scores.device))}


def sizes(train: Labelled, val: Labelled) -> dict[str, int]:
    """What stands behind an accuracy."""
    return {"classes": len(train.classes), "train_images": len(train.images), "images": len(val.images)}


def class_names(config: ProbeConfig) -> dict[str, str] | None:
    """How the classes are said, if --class-names tells."""
    return read_class_names(config.class_names) if config.class_names else None


def zero_shot(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """Accuracy by captions alone."""
    val = open_labelled(config.data, "val", None, config.image_column, config.label_column)
    classifier = CaptionClassifier.build(encoder, val.classes, config.template or TEMPLATES, class_names(config))
    return {**judged(classifier(encoder, val.images), val), "classes": len(val.classes), "images": len(val.images)}


def linear(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """Accuracy of softmax regression on CLS."""
    train, val = splits(config)
    features, val_features = cls_of_splits(encoder, train, val)
    labels = train.labels.to(encoder.device)
    (scores,), ridge = linear_probe(features, labels, val_features, classes=len(train.classes), seed=config.seed)
    return {**judged(scores, val), "ridge": ridge, **sizes(train, val)}


def knn(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """Accuracy of k nearest neighbours on CLS."""
    train, val = splits(config)
    features, val_features = cls_of_splits(encoder, train, val)
    return {**judged(knn_scores(features, train.labels, val_features, len(train.classes)), val), **sizes(train, val)}


def attentive(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """Accuracy of an attentive classifier of the patch tokens."""
    train, val = splits(config)
    tokens, labels = PatchTokens(encoder, train.images), train.labels.to(encoder.device)
    probe, decay = attentive_probe(tokens, labels, encoder.config.vision_heads, len(train.classes), config.seed)
    with torch.no_grad():
        parts = patch_tokens(encoder, val.images, in_order(len(val.images)))
        scores = torch.cat([probe(part.float()) for part in parts])
    return {**judged(scores, val), "weight_decay": decay, **sizes(train, val)}


def segmentation(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """Mean IoU of a linear layer on the patch tokens."""
    return segmentation_probe(encoder, config.data, config.seed)


def backgrounds(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """What accuracy loses with other backgrounds."""
    templates = config.template or TEMPLATES
    return background_probe(encoder, config.data, templates, class_names(config), config.seed)


def retrieval(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """Recall of images among captions and the reverse."""
    data = open_captions(config.data, config.image_column, config.caption_column)
    return retrieval_probe(encoder, *caption_pool(data, config.pool))


def objects(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """AUC of which objects an image shows."""
    return object_probe(encoder, config.data)


MEASURES: dict[str, Callable[[Encoder, ProbeConfig], Numbers]] = {
    "zero-shot": zero_shot,
    "linear": linear,
    "attentive": attentive,
    "knn": knn,
    "segmentation": segmentation,
    "backgrounds": backgrounds,
    "retrieval": retrieval,
    "objects": objects,
}


def measure(encoder: Encoder, config: ProbeConfig) -> Numbers:
    """What --task asks.

    Raises:
        UserError: the data is not what the task needs.
    """
    return MEASURES[config.task](encoder, config)


def table_line(task: str, numbers: Numbers) -> str:
    """The task and its single numbers in one line."""
    cells = []
    for name, value in numbers.items():
        if not isinstance(value, dict):
            cells.append(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}")
    return f"{task:<13} " + "  ".join(cells)
