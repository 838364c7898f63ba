"""Questions of an evaluation that were answered right and wrong, with their images and every row's answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.data import official
from bridge.data.example import Example
from bridge.evaluation.benchmarks import TITLES, read_pope
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl

RIGHT = 50.0  # points of 100, from which on an answer counts as right here


@dataclass(frozen=True)
class Answered:
    """A question with what each row answered and the points it got for it, 0 to 100."""

    example: Example
    answers: dict[str, tuple[str, float]]


def chosen(name: str, rows: Mapping[str, Path], data: str, count: int, seed: int) -> dict[str, list[Answered]]:
    """{"right": [...], "wrong": [...]} by the first row's answers, `count` each at most, of many images.

    name: gqa, vqav2 or pope. rows: name -> evaluation folder. data: where the questions are read from.
    Raises: UserError if the benchmark cannot be read, or is not what was evaluated.
    """
    scores, answers = {}, {}
    for row, folder in rows.items():
        counted, said = folder / "per_question" / f"{name}.json", folder / "predictions" / f"{name}.jsonl"
        if counted.is_file() and said.is_file():
            scores[row] = read_json(counted)["scores"]
            answers[row] = {record["question_id"]: record["answer"] for record in read_jsonl(said)}
    first = next(iter(rows))
    if first not in scores:
        raise UserError(f"{rows[first]} no longer holds the predictions and their scores")
    split = read_json(rows[first] / "results.json")["benchmarks"][name]["split"]
    examples = _examples(name, data, split)
    order = np.random.default_rng([seed, list(TITLES).index(name)]).permutation(sorted(scores[first]))
    if not examples.keys() >= scores[first].keys():
        raise UserError(f"{data} does not hold the questions of {TITLES[name]} that {rows[first]} answers")
    by_kind: dict[str, list[str]] = {"right": [], "wrong": []}
    for key in map(str, order):
        by_kind["right" if scores[first][key] >= RIGHT else "wrong"].append(key)
    found: dict[str, list[Answered]] = {}
    for kind, keys in by_kind.items():
        found[kind] = []
        for key in _varied(keys, examples)[:count]:
            said = {row: (answers[row].get(key, ""), scores[row][key]) for row in scores if key in scores[row]}
            found[kind].append(Answered(examples[key], said))
    return found


def _varied(keys: Sequence[str], examples: Mapping[str, Example]) -> list[str]:
    """The questions without those that are asked twice about an image (POPE does), first one of each image."""
    once: dict[tuple, str] = {}
    for key in keys:
        once.setdefault((examples[key].image, examples[key].question), key)
    images, first, rest = set(), [], []
    for (image, _), key in once.items():
        (rest if image in images else first).append(key)
        images.add(image)
    return first + rest


def _examples(name: str, data: str, split: str) -> dict[str, Example]:
    """Question id -> question, as the evaluation names it."""
    if name == "pope":
        examples: Iterable[Example] = read_pope(data).examples
    else:
        examples = {"gqa": official.gqa, "vqav2": official.vqav2}[name](data, split, allow_missing=True)
    return {example.question_id: example for example in examples}
