"""Does an encoder read the object or its background? ImageNet-9 (Xiao et al., 2020).

    original/val/CLASS/*.jpg      pictures as they are
    mixed_same/val/CLASS/*.jpg    each object before the background of another picture of its class
    mixed_rand/val/CLASS/*.jpg    each object before the background of a picture of a random class

The drop is what accuracy loses from `original` to each of the others. Two classifiers are read: captions (zero-shot),
and, if there is original/train, a linear probe fitted on it, which may learn to rely on the backgrounds.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from pretrain.probes.features import cls_features
from pretrain.probes.heads import accuracy, linear_probe
from pretrain.probes.labelled import Labelled, open_class_folders
from pretrain.probes.zero_shot import CaptionClassifier
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError

VARIANTS = ("original", "mixed_same", "mixed_rand")


def with_drops(reading: str, variants: dict[str, Labelled], scores: Iterable[torch.Tensor]) -> dict[str, float]:
    """Accuracies and their drops of scores float32[B, classes] of each variant in turn: READING_original, ..."""
    found = {}
    for (name, part), of_part in zip(variants.items(), scores):
        found[name] = accuracy(of_part, part.labels.to(of_part.device))
    drops = {f"drop_{name}": found["original"] - found[name] for name in VARIANTS[1:]}
    return {f"{reading}_{name}": value for name, value in {**found, **drops}.items()}


def open_same_classes(folder: Path, original: Labelled) -> Labelled:
    """Class folders of all classes of `original`. Raises: UserError if one is missing: drops would compare others."""
    part = open_class_folders(folder, original.classes)
    shown = set(part.labels.tolist())
    if missing := [name for number, name in enumerate(original.classes) if number not in shown]:
        raise UserError(f"{folder} has no class {missing[0]!r}, which original/val has: all need the same classes")
    return part


def background_probe(
    encoder: VisionEncoder, root: str | Path, templates: Sequence[str], given: dict[str, str] | None, seed: int
) -> dict:
    """Accuracies and drops. templates, given: of the captions, as in `CaptionClassifier.build`."""
    root = Path(root)
    original = open_class_folders(root / "original" / "val")
    classifier = CaptionClassifier.build(encoder, original.classes, templates, given)
    variants = {"original": original}
    variants |= {name: open_same_classes(root / name / "val", original) for name in VARIANTS[1:]}
    scores = (classifier(encoder, part.images, name) for name, part in variants.items())
    numbers = with_drops("zero_shot", variants, scores)
    if (root / "original" / "train").is_dir():
        train = open_same_classes(root / "original" / "train", original)
        x, *tests = (cls_features(encoder, part.images, "linear") for part in (train, *variants.values()))
        labels = train.labels.to(encoder.device)
        scores, _ = linear_probe(x, labels, *tests, classes=len(train.classes), seed=seed)
        numbers |= with_drops("linear", variants, scores)
    return {**numbers, "images": len(original.images)}
