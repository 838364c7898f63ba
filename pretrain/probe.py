"""The command `python pretrain/probe.py`: what a saved encoder has learnt."""

import argparse
from collections.abc import Callable

import torch

from pretrain.data.source import open_captions
from pretrain.probes.backgrounds import background_probe
from pretrain.probes.features import PatchTokens, cls_features, in_order, patch_tokens
from pretrain.probes.heads import accuracy, attentive_probe, knn_scores, linear_probe
from pretrain.probes.labelled import Labelled, open_labelled
from pretrain.probes.objects import object_probe
from pretrain.probes.retrieval import caption_pool, retrieval_probe
from pretrain.probes.segmentation import segmentation_probe
from pretrain.probes.zero_shot import TEMPLATES, CaptionClassifier, read_class_names
from vlm.encoders.levljepa import Encoder, load_encoder
from vlm.errors import UserError, run_command
from vlm.files import write_json

EPILOG = """examples:
  python pretrain/probe.py runs/pretrain/encoder --task linear --data runs/world/classes
  python pretrain/probe.py runs/pretrain/encoder --task retrieval --data 'runs/world/captions/testdev-*.tar'
  python pretrain/probe.py LeVLJEPA-ViT-B-DataComp-200k --task zero-shot --data /data/imagenet \\
      --template 'a photo of a {}.' --json zero-shot.json
  python pretrain/probe.py runs/cc12m/encoder --task segmentation --data /data/ADEChallengeData2016

tasks and what --data is for each:
  zero-shot     classes by captions alone. Class folders, in val/, validation/, valid/ or test/ or by themselves
  linear        softmax regression on CLS. train/ and val/ (or test/) of class folders, or a `datasets` data set, saved
                or on the hub, with an image and a label column
  attentive     one cross-attention query over the patch tokens, then a linear layer; data as for linear
  knn           k-NN on CLS, cosine, k 20, votes exp(cos / 0.07); data as for linear
  segmentation  one linear layer on the patch tokens, mean IoU over the labels present. ADE20K's layout
                (images/training, annotations/training; 0 = ignore) or COCO-Stuff's (images/train2017, and
                annotations or stuffthingmaps/train2017; 255 = ignore)
  backgrounds   what other backgrounds cost, zero-shot and, with original/train, by a linear probe fitted on it.
                ImageNet-9: original, mixed_same, mixed_rand, each with val/CLASS
  retrieval     does an image find its caption among --pool, and a caption its image? Effective rank and SIGReg of the
                embeddings. Captions that were not trained on
  objects       which objects does an image show? One AUC a name. A GQA folder with train and val scene graphs

The weight decay of linear and attentive is chosen on a held-out tenth of the train split, never on val.
"""


def classes_of(args: argparse.Namespace) -> tuple[Labelled, Labelled]:
    """The train and the val split."""
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    train = open_labelled(args.data, "train", **columns)
    return train, open_labelled(args.data, "val", train.classes, **columns)


def summary(train: Labelled, val: Labelled) -> dict[str, int]:
    return {"classes": len(train.classes), "train_images": len(train.images), "images": len(val.images)}


def zero_shot(encoder: Encoder, args: argparse.Namespace) -> dict:
    val = open_labelled(args.data, "val", image_column=args.image_column, label_column=args.label_column)
    classifier = CaptionClassifier.build(encoder, val.classes, args.template, args.class_names)
    found = accuracy(classifier(encoder, val.images), val.labels.to(encoder.device))
    return {"accuracy": found, "classes": len(val.classes), "images": len(val.images)}


def linear(encoder: Encoder, args: argparse.Namespace) -> dict:
    train, val = classes_of(args)
    x, test = (cls_features(encoder, part.images, name) for part, name in ((train, "train"), (val, "val")))
    labels = train.labels.to(encoder.device)
    (scores,), ridge = linear_probe(x, labels, test, classes=len(train.classes), seed=args.seed)
    return {"accuracy": accuracy(scores, val.labels.to(scores.device)), "ridge": ridge, **summary(train, val)}


def knn(encoder: Encoder, args: argparse.Namespace) -> dict:
    train, val = classes_of(args)
    x, test = (cls_features(encoder, part.images, name) for part, name in ((train, "train"), (val, "val")))
    scores = knn_scores(x, train.labels, test, len(train.classes))
    return {"accuracy": accuracy(scores, val.labels.to(scores.device)), **summary(train, val)}


def attentive(encoder: Encoder, args: argparse.Namespace) -> dict:
    train, val = classes_of(args)
    tokens, labels = PatchTokens(encoder, train.images), train.labels.to(encoder.device)
    heads = encoder.config.vision_heads
    probe, decay = attentive_probe(tokens, labels, heads, len(train.classes), args.seed)
    with torch.no_grad():
        parts = patch_tokens(encoder, val.images, in_order(len(val.images)))
        scores = torch.cat([probe(part.float()) for part in parts])
    found = accuracy(scores, val.labels.to(scores.device))
    return {"accuracy": found, "weight_decay": decay, **summary(train, val)}


TASKS: dict[str, Callable[[Encoder, argparse.Namespace], dict]] = {
    "zero-shot": zero_shot,
    "linear": linear,
    "attentive": attentive,
    "knn": knn,
    "segmentation": lambda encoder, args: segmentation_probe(encoder, args.data, args.seed),
    "backgrounds": lambda encoder, args: background_probe(
        encoder, args.data, args.template, args.class_names, args.seed
    ),
    "retrieval": lambda encoder, args: retrieval_probe(
        encoder, *caption_pool(open_captions(args.data, args.image_column, args.caption_column), args.pool)
    ),
    "objects": lambda encoder, args: object_probe(encoder, args.data),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pretrain/probe.py",
        description="Measure a frozen encoder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("encoder", help="RUN/encoder or a released checkpoint's folder")
    add("--task", required=True, choices=list(TASKS))
    add("--data", required=True, help="what it is measured on; see below")
    add("--template", action="append", help="a caption with {} for the class, once or more (default: seven of CLIP's)")
    add("--class-names", metavar="FILE", help="how classes are said: lines of CLASS NAME (default: the folders' names)")
    add("--pool", type=int, default=256, help="captions to choose from (retrieval; default 256)")
    add("--image-column", help="of a data set, where it is none of the usual names")
    add("--label-column", help="of a labelled data set")
    add("--caption-column", help="of a captioned data set")
    add("--seed", type=int, default=0, help="of the held-out part, the order and the first weights (default 0)")
    add("--json", help="also write the numbers to this file")
    args = parser.parse_args(arguments)
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    args.template = args.template or list(TEMPLATES)
    args.class_names = read_class_names(args.class_names) if args.class_names else None
    return args


def table_line(task: str, numbers: dict) -> str:
    """The task and its single numbers in one line."""
    single = {name: value for name, value in numbers.items() if not isinstance(value, dict)}
    cells = [f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}" for name, value in single.items()]
    return f"{task:<13} " + "  ".join(cells)


def main() -> None:
    args = parse()
    encoder = load_encoder(args.encoder).to("cuda" if torch.cuda.is_available() else "cpu")
    numbers = TASKS[args.task](encoder, args)
    print(table_line(args.task, numbers))
    if args.json:
        write_json(args.json, {"task": args.task, "encoder": args.encoder, "data": args.data, **numbers})


if __name__ == "__main__":
    run_command(main)
