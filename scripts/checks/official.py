"""What GQA, VQAv2 and POPE consist of as they are published: files, where they come from, how much they hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge.data import official
from bridge.data.example import Example
from checks.scoring import scored_gqa, scored_vqav2

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
    """A path below the data set's folder, and the download that has it. optional: what it is missed for. others:
    patterns of what `bridge.data.official` takes in its place.
    """

    path: str
    source: Download
    optional: str = ""
    others: tuple[str, ...] = ()

    def is_met(self, folder: Path) -> bool:
        """Whether the folder holds the path, or what does as well."""
        return (folder / self.path).exists() or any(any(folder.glob(other)) for other in self.others)

    def archives(self, folder: Path) -> list[Path]:
        """The zips in the folder that hold it, or what does as well: each of COCO's is named for its folder."""
        names = [self.source.name, *(f"{other}.zip" for other in self.others)]
        return [folder / name for name in names if name.endswith(".zip") and (folder / name).is_file()]


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
    """`read(folder, split)` is how training reads it, `evaluate` how evaluation does, which also scores. whole:
    evaluation takes all splits at once.
    """

    title: str
    splits: tuple[Split, ...]
    read: Callable[[Path, str], list[Example]]
    evaluate: Callable[[Path, str], list[Example]]
    whole: bool = False


GQA_QUESTIONS = Download(f"{STANFORD}/questions1.2.zip", "1.4 GB")
GQA_IMAGES = Download(f"{STANFORD}/images.zip", "20.3 GB")
GQA_CHOICES = Download(f"{STANFORD}/eval.zip", "evaluator and choices")
GQA_SCENES = Download(f"{STANFORD}/sceneGraphs.zip", "42.7 MB")


def _gqa(name: str, use: str, questions: int, images: int) -> Split:
    chunks = (f"{name}_balanced_questions/*.json",)
    questions_file = Need(f"{name}_balanced_questions.json", GQA_QUESTIONS, others=chunks)
    needs = [questions_file, Need("images", GQA_IMAGES)]
    if name == "val":
        needs += [
            Need(
                "val_choices.json",
                GQA_CHOICES,
                "validity and plausibility are 0 without it",
                others=("val_choices/*.json",),
            ),
            Need("val_sceneGraphs.json", GQA_SCENES, "only grounding needs it, which is not scored here"),
        ]
    return Split(name, use, (questions,), images, tuple(needs))


def _coco(archive: Download) -> Need:
    """A folder of COCO's images. The same pictures lie in the folders of 2017, divided anew between train and val."""
    folder = archive.name.removesuffix(".zip")
    newer = ("test2017",) if folder.startswith("test") else ("train2017", "val2017")
    return Need(folder, archive, others=newer)


def _vqav2(name: str, use: str, questions: int, images: int | None, files: tuple[str, str], folder: Download) -> Split:
    """files: VQAv2's name of the split in its zips, and the size of the questions' zip."""
    part, size = files
    question_file = Need(
        f"v2_OpenEnded_mscoco_{name}_questions.json", Download(f"{VISUALQA}/v2_Questions_{part}_mscoco.zip", size)
    )
    needs = [question_file, _coco(folder)]
    if use != "submission":
        size = {"Train": "21.7 MB", "Val": "10.5 MB"}[part]
        source = Download(f"{VISUALQA}/v2_Annotations_{part}_mscoco.zip", size)
        needs.insert(1, Need(f"v2_mscoco_{name}_annotations.json", source))
    return Split(name, use, (questions,), images, tuple(needs))


def _pope(category: str, questions: tuple[int, ...]) -> Split:
    file = Download(f"{POPE}/coco_pope_{category}.json", "0.4 MB")
    return Split(category, "evaluation", questions, 500, (Need(file.name, file), _coco(COCO_VAL)))


def _read_pope(folder: Path, category: str) -> list[Example]:
    return official.pope(folder, category, allow_missing=True)


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
        scored_gqa,
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
        scored_vqav2,
    ),
    "pope": DataSet(
        "POPE",
        (_pope("random", (2910, 3000)), _pope("popular", (3000,)), _pope("adversarial", (3000,))),
        _read_pope,
        _read_pope,
        whole=True,
    ),
}
