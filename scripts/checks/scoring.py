"""Would evaluation and its scorers take these files? Asked here, it is known before a night of answering."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bridge.data import official
from bridge.data.example import Example
from bridge.evaluation.benchmarks import Benchmark, check_answers, read_gqa, read_vqav2, score
from vlm.errors import UserError


def scored_gqa(folder: Path, split: str) -> list[Example]:
    """GQA's questions as evaluation reads them, after scoring without a prediction.

    Raises: UserError with the file that evaluation or the scorer refuses; so does `scored_vqav2`.
    """
    benchmark = read_gqa(folder, split)
    file = folder / f"{official.gqa_split(split)}_questions.json"
    _score(replace(benchmark, choices=None), _first([file, file.with_suffix(""), folder]))
    if benchmark.choices is not None:
        choices = official.gqa_choices_file(folder, split)
        _score(benchmark, _first([choices, choices.with_suffix("")]))
    return list(benchmark.examples)


def scored_vqav2(folder: Path, split: str) -> list[Example]:
    """VQAv2's questions as evaluation reads them, after scoring without a prediction."""
    benchmark = read_vqav2(folder, split)
    _score(benchmark, _first([folder / f"v2_mscoco_{split}_annotations.json", folder]))
    return list(benchmark.examples)


def _first(places: Sequence[Path]) -> Path:
    """The first of these that is there: a file, its chunks, or the folder that holds the hub's tables."""
    return next(place for place in places if place.exists())


def _score(benchmark: Benchmark, file: Path) -> None:
    """Score with no predictions, which reads every record that the scores are made of. file: what holds these."""
    with _naming(file):
        check_answers(benchmark)
        score(benchmark, {})


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Begin a refusal with the file: the scorers are given records alone."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
