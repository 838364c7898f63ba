"""A few held-out questions with a model's answers beside the true ones, right or wrong as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bridge.data import official
from bridge.data.example import Example
from bridge.data.pictures import open_picture
from study.settings import SPLITS
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, write_figure

ENLARGED = 4  # times, in the picture


@dataclass(frozen=True)
class Shown:
    """One question, what was answered, and what its benchmark counted for it, 0 to 100."""

    kind: str
    example: Example
    answer: str
    score: float

    @property
    def is_right(self) -> bool:
        return self.score >= 50

    def cells(self) -> list[str]:
        mark = "right" if self.is_right else "wrong"
        return [self.kind, self.example.question, self.answer, self.example.answer or "", mark]


Kind = tuple[str, str, str, Sequence[Example], Callable[[Example], bool]]  # title, benchmark, prefix of ids, ...


def choose(data: Path, evaluation: Path, split: str, seed: int) -> list[Shown]:
    """One answered question of each of four kinds. The seed decides which, not whether the answer is right.

    split: VQAv2's; GQA's and POPE's that belong to it are read too.
    Raises: UserError if a kind has no answered question, or a file is missing or broken.
    """
    shown = []
    for number, (kind, name, prefix, examples, belongs) in enumerate(_kinds(data, split)):
        answers = {row["question_id"]: row["answer"] for row in read_jsonl(evaluation / f"predictions/{name}.jsonl")}
        scores = read_json(evaluation / f"per_question/{name}.json")["scores"]
        scored = answers.keys() & scores.keys()  # answers to more questions lie there if the limit was larger before
        candidates = [example for example in examples if prefix + example.question_id in scored and belongs(example)]
        if not candidates:
            raise UserError(f"{evaluation} answers no question of the kind {kind!r}: evaluate all benchmarks of {data}")
        example = candidates[np.random.default_rng([seed, number]).integers(len(candidates))]
        key = prefix + example.question_id
        shown.append(Shown(kind, example, answers[key], scores[key]))
    return shown


def _beside(data: Path, split: str) -> tuple[str, str]:
    """GQA's split and POPE's folder that are evaluated together with VQAv2's `split`."""
    to_choose = SPLITS["val"]["vqav2"] if (data / "gqa").is_dir() else "minival2014"  # prepare_pictures.py's
    if split == to_choose and (data / "pope_val").is_dir():
        return "val", "pope_val"
    return "testdev", "pope"


def _kinds(data: Path, split: str) -> list[Kind]:
    """Four kinds of questions of the embedded world, or of a folder with VQAv2 and POPE alone, as prepare_pictures.py
    writes it.
    """
    vqav2, annotations = official.read_vqav2(data / "vqav2", split)
    if not annotations:
        raise UserError(f"{data / 'vqav2'} holds no answers to the questions of {split}: name a split that has them")

    gqa_split, pope_folder = _beside(data, split)

    def of_type(wanted: str) -> Callable[[Example], bool]:
        return lambda example: annotations[example.question_id]["answer_type"] == wanted

    def pope(category: str) -> Kind:
        examples = official.pope(data / pope_folder, category)
        return f"POPE, {category}", "pope", f"{category}/", examples, lambda example: True

    if not (data / "gqa").is_dir():
        return [
            ("VQAv2, a name", "vqav2", "", vqav2, of_type("other")),
            ("VQAv2, yes or no", "vqav2", "", vqav2, of_type("yes/no")),
            pope("random"),
            pope("adversarial"),
        ]
    gqa, records = official.read_gqa(data / "gqa", gqa_split)

    def structural(wanted: str) -> Callable[[Example], bool]:
        return lambda example: records[example.question_id]["types"]["structural"] == wanted

    return [
        ("GQA, open", "gqa", "", gqa, structural("query")),
        ("GQA, a choice", "gqa", "", gqa, structural("choose")),
        ("VQAv2, a number", "vqav2", "", vqav2, of_type("number")),
        ("POPE, yes or no", *pope("adversarial")[1:]),
    ]


def first_right(shown: Sequence[Shown]) -> Shown:
    """The first of them that was answered right; the first of all if none was."""
    return next((one for one in shown if one.is_right), shown[0])


def as_text(shown: Sequence[Shown], evaluation: Path) -> str:
    """A line a question under a header, and how many of these are right, and the mean of all benchmarks."""
    right = sum(one.is_right for one in shown)
    mean = read_json(evaluation / "results.json")["summary"]["mean"]
    rows = [["kind", "question", "answer", "truth", ""], *(one.cells() for one in shown)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    count = f"{right} of these {len(shown)} are right; the mean of the benchmarks is {mean:.0f} %"
    return "\n".join([*lines, count])


def draw(shown: Sequence[Shown], file: Path) -> None:
    """The pictures side by side, each over its question, the answer and the truth."""
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(3.0 * len(shown), 3.6), dpi=150, layout="constrained")
    for number, one in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), number)
        image = open_picture(one.example.image)
        size = (image.width * ENLARGED, image.height * ENLARGED)
        axes.imshow(image.resize(size, Image.Resampling.NEAREST))
        axes.axis("off")
        axes.set_title(one.example.question, fontsize=9, wrap=True)
        colour = "#1f6f8b" if one.is_right else "#b5524c"
        words = f"{one.answer}   (truth: {one.example.answer})"
        axes.text(0.5, -0.08, words, ha="center", transform=axes.transAxes, fontsize=10, color=colour)
    write_figure(file, figure)
