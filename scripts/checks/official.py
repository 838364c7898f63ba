"""What GQA, VQAv2 and POPE consist of as they are published: files, where they come from, how much they hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge.data import official
from bridge.data.example import Example

STANFORD = "https://downloads.cs.stanford.edu/nlp/data/gqa"
VISUALQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
COCO = "http://images.cocodataset.org/zips"
POPE = "https://raw.githubusercontent.com/AoiDragon/POPE/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"


@dataclass(frozen=True)
class Download:
    """A file to fetch; `size` as its publisher states it."""

    url: str
    size: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Need:
    """A path below the data set's folder, and the download that has it. optional: what it is missed for."""

    path: str
    source: Download
    optional: str = ""


@dataclass(frozen=True)
class Split:
    """`use`: training, evaluation or submission. questions, images: the official counts, several if there are several
    versions; images are those that the questions are about."""

    name: str
    use: str
    questions: tuple[int, ...]
    images: int | None
    needs: tuple[Need, ...]


@dataclass(frozen=True)
class DataSet:
    """`read(folder, split)` is how training and evaluation read it. whole: evaluation takes all splits at once."""

    title: str
    splits: tuple[Split, ...]
    read: Callable[[Path, str], list[Example]]
    whole: bool = False


GQA_QUESTIONS = Download(f"{STANFORD}/questions1.2.zip", "1.4 GB")
GQA_IMAGES = Download(f"{STANFORD}/images.zip", "20.3 GB")
GQA_CHOICES = Download(f"{STANFORD}/eval.zip", "evaluator and choices")
GQA_SCENES = Download(f"{STANFORD}/sceneGraphs.zip", "42.7 MB")


def _gqa(name: str, use: str, questions: int, images: int) -> Split:
    needs = [Need(f"{name}_balanced_questions.json", GQA_QUESTIONS), Need("images", GQA_IMAGES)]
    if name == "val":
        needs += [
            Need("val_choices.json", GQA_CHOICES, "validity and plausibility are 0 without it"),
            Need("val_sceneGraphs.json", GQA_SCENES, "only grounding needs it, which is not scored here"),
        ]
    return Split(name, use, (questions,), images, tuple(needs))


def _vqav2(name: str, use: str, questions: int, images: int | None, files: tuple[str, str], folder: Download) -> Split:
    """files: VQAv2's name of the split in its zips, and the size of the questions' zip."""
    part, size = files
    question_file = Need(
        f"v2_OpenEnded_mscoco_{name}_questions.json", Download(f"{VISUALQA}/v2_Questions_{part}_mscoco.zip", size)
    )
    needs = [question_file, Need(folder.name.removesuffix(".zip"), folder)]
    if use != "submission":
        size = {"Train": "21.7 MB", "Val": "10.5 MB"}[part]
        source = Download(f"{VISUALQA}/v2_Annotations_{part}_mscoco.zip", size)
        needs.insert(1, Need(f"v2_mscoco_{name}_annotations.json", source))
    return Split(name, use, (questions,), images, tuple(needs))


def _pope(category: str, questions: tuple[int, ...]) -> Split:
    file = Download(f"{POPE}/coco_pope_{category}.json", "0.4 MB")
    return Split(category, "evaluation", questions, 500, (Need(file.name, file), Need("val2014", COCO_VAL)))


COCO_TRAIN = Download(f"{COCO}/train2014.zip", "13.5 GB")
COCO_VAL = Download(f"{COCO}/val2014.zip", "6.6 GB")
COCO_TEST = Download(f"{COCO}/test2015.zip", "12 GB")
TEST_QUESTIONS = ("Test", "test and test-dev")

DATA_SETS = {
    "gqa": DataSet(
        "GQA",
        (
            _gqa("train", "training", 943_000, 72_140),
            _gqa("val", "evaluation", 132_062, 10_234),
            _gqa("testdev", "evaluation", 12_578, 398),
        ),
        lambda folder, split: official.gqa(folder, split, allow_missing=True),
    ),
    "vqav2": DataSet(
        "VQAv2",
        (
            _vqav2("train2014", "training", 443_757, 82_783, ("Train", "7.2 MB"), COCO_TRAIN),
            _vqav2("val2014", "evaluation", 214_354, 40_504, ("Val", "3.5 MB"), COCO_VAL),
            _vqav2("test-dev2015", "submission", 107_394, None, TEST_QUESTIONS, COCO_TEST),
            _vqav2("test2015", "submission", 447_793, 81_434, TEST_QUESTIONS, COCO_TEST),
        ),
        lambda folder, split: official.vqav2(folder, split, allow_missing=True),
    ),
    "pope": DataSet(
        "POPE",
        (_pope("random", (2910, 3000)), _pope("popular", (3000,)), _pope("adversarial", (3000,))),
        lambda folder, split: official.pope(folder, split, allow_missing=True),
        whole=True,
    ),
}
