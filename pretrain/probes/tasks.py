"""The tasks of pretrain/probe.py: a frozen encoder and what is asked of it -> numbers by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain.data.source import open_captions
from pretrain.probes.backgrounds import background_probe
from pretrain.probes.features import cls_features, encode_in, in_order, patch_tokens
from pretrain.probes.heads import accuracy, attentive_probe, knn_scores, linear_probe
from pretrain.probes.labelled import Labelled, open_labelled
from pretrain.probes.objects import object_probe
from pretrain.probes.retrieval import caption_pool, retrieval_probe
from pretrain.probes.segmentation import segmentation_probe
from pretrain.probes.settings import ProbeConfig
from pretrain.probes.tokens import PatchTokens
from pretrain.probes.zero_shot import TEMPLATES, CaptionClassifier, read_class_names
from vlm.distributed import is_main
from vlm.encoders.base import VisionEncoder

Numbers = dict[str, Any]  # most are single numbers; auc_per_name and iou_per_label are dicts of them


def open_splits(config: ProbeConfig) -> tuple[Labelled, Labelled]:
    """The `train` and `val` split of --data, with the same classes."""
    columns = (config.image_column, config.label_column, config.image_root)
    train = open_labelled(config.data, "train", None, *columns)
    return train, open_labelled(config.data, "val", train.classes, *columns)


def judged(scores: Tensor, val: Labelled, train: Labelled | None = None, **chosen: float) -> Numbers:
    """The accuracy of the val split's scores float32[B, classes], what was chosen for it, and of how many images."""
    fitted_on = {"train_images": len(train.images)} if train else {}
    counts = {"classes": len(val.classes), **fitted_on, "images": len(val.images)}
    return {"accuracy": accuracy(scores, val.labels.to(scores.device)), **chosen, **counts}


def zero_shot(encoder: VisionEncoder, config: ProbeConfig) -> Numbers:
    val = open_labelled(config.data, "val", None, config.image_column, config.label_column, config.image_root)
    classifier = CaptionClassifier.build(encoder, val.classes, *captions_of(config))
    return judged(classifier(encoder, val.images), val)


def linear(encoder: VisionEncoder, config: ProbeConfig) -> Numbers:
    train, val = open_splits(config)
    x, x_val = cls_features(encoder, train.images, "train"), cls_features(encoder, val.images, "val")
    labels = train.labels.to(encoder.device)
    (scores,), ridge = linear_probe(x, labels, x_val, classes=len(train.classes), seed=config.seed)
    return judged(scores, val, train, ridge=ridge)


def knn(encoder: VisionEncoder, config: ProbeConfig) -> Numbers:
    train, val = open_splits(config)
    x, x_val = cls_features(encoder, train.images, "train"), cls_features(encoder, val.images, "val")
    return judged(knn_scores(x, train.labels, x_val, len(train.classes)), val, train)


def attentive(encoder: VisionEncoder, config: ProbeConfig) -> Numbers:
    train, val = open_splits(config)
    tokens, labels = PatchTokens(encoder, train.images, config.tokens), train.labels.to(encoder.device)
    if not is_main():
        return {}
    probe, decay = attentive_probe(tokens, labels, encoder.heads, len(train.classes), config.seed)
    with torch.no_grad():
        parts = patch_tokens(encoder, val.images, in_order(len(val.images)))
        scores = torch.cat([probe(part.float()) for part in parts])
    return judged(scores, val, train, weight_decay=decay)


def retrieval(encoder: VisionEncoder, config: ProbeConfig) -> Numbers:
    data = open_captions(config.data, config.image_column, config.caption_column, image_root=config.image_root)
    return retrieval_probe(encoder, *caption_pool(data, config.pool))


def captions_of(config: ProbeConfig) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """The templates, and how the classes are said if --class-names tells."""
    return config.template or TEMPLATES, read_class_names(config.class_names) if config.class_names else None


TASKS: dict[str, Callable[[VisionEncoder, ProbeConfig], Numbers]] = {
    "zero-shot": zero_shot,
    "linear": linear,
    "attentive": attentive,
    "knn": knn,
    "segmentation": lambda encoder, config: segmentation_probe(encoder, config.data, config.seed, config.tokens),
    "backgrounds": lambda encoder, config: background_probe(encoder, config.data, *captions_of(config), config.seed),
    "retrieval": retrieval,
    "objects": lambda encoder, config: object_probe(encoder, config.data),
}


def measure(encoder: VisionEncoder, config: ProbeConfig) -> Numbers:
    """Prepare images as --resize says, and run the task; collective.

    A mask labels the whole picture, so segmentation squashes. On all ranks but the first the numbers may be missing.
    """
    resize = "squash" if config.task == "segmentation" else config.resize
    if resize:
        encoder = encoder.with_config(short_side=encoder.config.resized_by(resize).short_side)
    half = config.dtype == "bf16" or (config.dtype == "auto" and encoder.device.type == "cuda")
    return TASKS[config.task](encode_in(encoder, torch.bfloat16 if half else torch.float32), config)


def table_line(task: str, numbers: Numbers) -> str:
    """The task and its single numbers in one line."""
    single = {name: value for name, value in numbers.items() if not isinstance(value, dict)}
    cells = [f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}" for name, value in single.items()]
    return f"{task:<13} " + "  ".join(cells)
