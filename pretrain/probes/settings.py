"""What pretrain/probe.py is asked to measure; see `vlm.run.settings`."""

from dataclasses import dataclass

from vlm.errors import UserError
from vlm.run.settings import flag, seed_setting, setting, timeout_setting

# Each task, and what its --data is. `pretrain.probes.tasks` has a function for each.
TASKS = {
    "zero-shot": "classes by captions alone. Class folders, in val/, validation/, valid/ or test/ or by themselves",
    "linear": "softmax regression on CLS. train/ and val/ (or test/) of class folders, or a `datasets` data set, saved "
    "or on the hub, with an image and a label column",
    "attentive": "one cross-attention query over the patch tokens, then a linear layer; data as for linear",
    "knn": "k-NN on CLS, cosine, k 20, votes exp(cos / 0.07); data as for linear",
    "segmentation": "one linear layer on the patch tokens, mean IoU over the labels present. ADE20K's layout "
    "(images/training, annotations/training; 0 = ignore) or COCO-Stuff's (images/train2017, and annotations or "
    "stuffthingmaps/train2017; 255 = ignore)",
    "backgrounds": "what other backgrounds cost, zero-shot and, with original/train, by a linear probe fitted on it. "
    "ImageNet-9: original, mixed_same, mixed_rand, each with val/CLASS",
    "retrieval": "does an image find its caption among --pool, and a caption its image? Effective rank and SIGReg of "
    "the embeddings. Captions that were not trained on",
    "objects": "which objects does an image show? One AUC a name. A GQA folder with train and val scene graphs",
}
LABELLED = ("zero-shot", "linear", "attentive", "knn")
# The flags that some tasks alone read, and these tasks.
READ_BY = {
    "template": ("zero-shot", "backgrounds"),
    "class_names": ("zero-shot", "backgrounds"),
    "pool": ("retrieval",),
    "image_column": (*LABELLED, "retrieval"),
    "label_column": LABELLED,
    "caption_column": ("retrieval",),
    "image_root": (*LABELLED, "retrieval"),
    "tokens": ("attentive", "segmentation"),
}


def _of(name: str) -> str:
    """The tasks that read a flag, as its line in `--help` ends."""
    return f"({', '.join(READ_BY[name])})"


@dataclass(frozen=True)
class ProbeConfig:
    """One measurement of one encoder."""

    encoder: str = setting(help="any name that bridge/train.py --encoder takes; see vlm/README.md", positional=True)
    task: str = setting(help="what is measured; see below", choices=tuple(TASKS))
    data: str = setting(help="what it is measured on; see below")
    template: tuple[str, ...] = setting(
        (), help=f"a caption with {{}} for the class, once or more {_of('template')}", repeated=True,
        default_text="seven of CLIP's",
    )  # fmt: skip
    class_names: str | None = setting(
        None,
        help=f"how classes are said: lines of CLASS NAME, tab between if CLASS has spaces {_of('class_names')}",
        metavar="FILE",
        default_text="the folders' names",
    )
    pool: int | None = setting(
        None, help=f"captions to choose from {_of('pool')}", least=5, default_text="256, or all if there are fewer"
    )
    resize: str | None = setting(
        None, help="squash pictures to a square, or crop: short side to 256/224 of it, then its centre, as papers do. "
        "Segmentation always squashes", choices=("squash", "crop"), default_text="the encoder's own way",
    )  # fmt: skip
    image_size: int | None = setting(
        None, help="side of the images; positions are interpolated", metavar="PIXELS", least=1,
        default_text="the encoder's own",
    )  # fmt: skip
    normalisation: str | None = setting(
        None, help="pixel statistics in place of the encoder's own", choices=("clip", "imagenet")
    )
    heads: int | None = setting(
        None, help="attention heads of a LeVLJEPA encoder whose config.json does not say", metavar="N", least=1,
        default_text="64 wide each",
    )  # fmt: skip
    image_column: str | None = setting(
        None, help=f"of a data set, if it has none of the usual names {_of('image_column')}"
    )
    label_column: str | None = setting(None, help=f"of a labelled data set {_of('label_column')}")
    caption_column: str | None = setting(None, help=f"of a captioned data set {_of('caption_column')}")
    image_root: str | None = setting(
        None, help=f"folder in which images that a table names may lie {_of('image_root')}", metavar="DIR"
    )
    dtype: str = setting(
        "auto", help="of the encoder; auto: bf16 autocast on GPUs, fp32 on CPUs", choices=("auto", "bf16", "fp32")
    )
    tokens: str | None = setting(
        None, help="where patch tokens of a training set are kept while a probe learns from them, if they take more "
        "than 8 GB: 385 GB for ImageNet on a ViT-B; on several machines, storage that they share "
        f"{_of('tokens')}", metavar="DIR",
        default_text="the system's temporary folder",
    )  # fmt: skip
    seed: int = seed_setting(help="of the held-out part, the order, the first weights, and random: encoders")
    timeout: float = timeout_setting()
    json: str | None = setting(None, help="also write the numbers to this file", metavar="FILE")


def refuse_idle_flags(config: ProbeConfig) -> None:
    """Raises: UserError for flags that the task does not read or cannot follow: they were meant to do something."""
    idle = []
    for name, tasks in READ_BY.items():
        if config.task not in tasks and getattr(config, name) != getattr(ProbeConfig, name):
            idle.append(f"{flag(name)} (of {', '.join(tasks)})")
    if idle:
        raise UserError(f"--task {config.task} does not read {', '.join(idle)}: leave out what another task reads")
    if config.task == "segmentation" and config.resize == "crop":
        raise UserError("--resize crop: the masks of segmentation label whole pictures, leave it out")
