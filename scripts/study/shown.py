"""A few held-out questions with a model's answers beside the true ones, right or wrong as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bridge.data import official
from bridge.data.example import Example
from bridge.data.pictures import open_picture
from vlm.errors import UserError, writing
from vlm.files import read_json, read_jsonl

ENLARGED = 4  # times, in the picture


@dataclass(frozen=True)
class Shown:
    """One question, what was answered, and what its benchmark counted for it, 0 to 100."""

    kind: str
    example: Example
    answer: str
    score: float

    def line(self) -> str:
        mark = "right" if self.score >= 50 else "wrong"
        return f"{self.kind:<16} {self.example.question:<44} {self.answer:<10} {self.example.answer or '':<10} {mark}"


def choose(world: Path, evaluation: Path, split: str, seed: int) -> list[Shown]:
    """One answered question of each of four kinds. The seed decides which, not whether the answer is right."""
    gqa, records = official.read_gqa(world / "gqa", "testdev")
    vqav2, annotations = official.read_vqav2(world / "vqav2", split)
    pope = official.pope(world / "pope", "adversarial")

    def structural(example: Example) -> str:
        return records[example.question_id]["types"]["structural"]

    def answer_type(example: Example) -> str:
        return annotations[example.question_id]["answer_type"]

    kinds: list[tuple[str, str, Sequence[Example], Callable[[Example], bool]]] = [
        ("GQA, open", "gqa", gqa, lambda example: structural(example) == "query"),
        ("GQA, a choice", "gqa", gqa, lambda example: structural(example) == "choose"),
        ("VQAv2, a number", "vqav2", vqav2, lambda example: answer_type(example) == "number"),
        ("POPE, yes or no", "pope", pope, lambda example: True),
    ]
    shown = []
    for number, (kind, name, examples, belongs) in enumerate(kinds):
        answers = {row["question_id"]: row["answer"] for row in read_jsonl(evaluation / f"predictions/{name}.jsonl")}
        scores = read_json(evaluation / f"per_question/{name}.json")["scores"]
        prefix = "adversarial/" if name == "pope" else ""  # POPE's ids count from 1 in each category
        candidates = [example for example in examples if prefix + example.question_id in answers and belongs(example)]
        if not candidates:
            raise UserError(f"{evaluation} answers no question of the kind {kind!r}: evaluate all three benchmarks")
        example = candidates[np.random.default_rng([seed, number]).integers(len(candidates))]
        key = prefix + example.question_id
        shown.append(Shown(kind, example, answers[key], scores[key]))
    return shown


def first_right(shown: Sequence[Shown]) -> Shown:
    """The first of them that was answered right; the first of all if none was."""
    return next((one for one in shown if one.score >= 50), shown[0])


def as_text(shown: Sequence[Shown], evaluation: Path) -> str:
    """A line a question under a header, and how many of these and of all questions are right."""
    right = sum(one.score >= 50 for one in shown)
    mean = read_json(evaluation / "results.json")["summary"]["mean"]
    head = f"{'kind':<16} {'question':<44} {'answer':<10} {'truth':<10}"
    count = f"{right} of these {len(shown)} are right; of all held-out questions {mean:.0f} %"
    return "\n".join([head, *(one.line() for one in shown), count])


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
        colour = "#1f6f8b" if one.score >= 50 else "#b5524c"
        words = f"{one.answer}   (truth: {one.example.answer})"
        axes.text(0.5, -0.08, words, ha="center", transform=axes.transAxes, fontsize=10, color=colour)
    with writing(file):
        figure.savefig(file)
