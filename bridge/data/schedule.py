"""Which questions are in which step: a pure function of (seed, epoch, position), made before any text is tokenised.

A scheduled row is one image with some of its questions, or the conversations that show the same images. They stay
together unless they are too many for a row. A conversation without an image is a row of its own. An epoch, one pass
over the data, holds every question once, or the shares that weights ask for.
"""

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bridge.data.example import Example, Sample
from bridge.data.mixture import Mixture
from bridge.data.stored import Stored

# A guess that only decides how many questions go together; `packing.fill_rows` counts tokens exactly.
BYTES_PER_TOKEN = 3
TEMPLATE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """Examples (indices into the mixture) about the same images, and the epoch they belong to."""

    epoch: int
    examples: tuple[int, ...]


Step = tuple[ScheduledRow, ...]
Row = TypeVar("Row")
Shares = Sequence[float] | None  # each data set's part of an epoch, 1 together; None: all of every set


def indices(step: Step) -> list[int]:
    """The examples of a step, row by row."""
    return [index for row in step for index in row.examples]


def without(step: Step, left_out: Container[int]) -> Step:
    """A step without the examples `left_out`; a row that loses all of them goes."""
    rows = [ScheduledRow(row.epoch, tuple(index for index in row.examples if index not in left_out)) for row in step]
    return tuple(row for row in rows if row.examples)


class Schedule:
    """The order of a mixture's questions. Rows of different data sets are kept apart."""

    def __init__(self, mixture: Mixture, seed: int, batch_questions: int, question_tokens: int, shares: Shares = None):
        """batch_questions: the most in a step. question_tokens: what a row holds of them, beside the image."""
        self._seed, self._batch_questions, self._shares = seed, batch_questions, shares
        self._question_tokens = max(1, question_tokens)
        self._tokens = text_tokens(mixture)
        self._images = [_by_image(mixture, questions) for questions in mixture.sets()]

    @property
    def images(self) -> list[int]:
        """How many images, or groups of images that are shown together, each data set has."""
        return [len(groups) for groups in self._images]

    def steps(self, count: int | None) -> list[Step]:
        """The first `count` steps, over as many epochs as they take; None: one epoch."""
        steps = self._epoch(0)
        epoch = 1
        while count is not None and len(steps) < count:
            steps += self._epoch(epoch)
            epoch += 1
        return steps[:count]

    def _epoch(self, epoch: int) -> list[Step]:
        """One pass over the data. The sequence of draws from `random` is what fixes the order of a seed."""
        random = np.random.default_rng([self._seed, epoch])
        sets: list[list[ScheduledRow]] = []
        for images in self._images:
            sets.append([row for image in images for row in self._split(image, epoch, random)])
        for rows in sets:
            random.shuffle(rows)
        if self._shares is not None:
            sets = [self._weighted(number, rows, epoch, random) for number, rows in enumerate(sets)]
        mixed = [row for rows in sets for row in rows]
        random.shuffle(mixed)
        return [tuple(step) for step in cut_steps(mixed, lambda row: len(row.examples), self._batch_questions)]

    def _weighted(
        self, number: int, rows: list[ScheduledRow], epoch: int, random: np.random.Generator
    ) -> list[ScheduledRow]:
        """As many rows of set `number` as its share of an epoch asks for. The set is repeated, in a new order each
        time, if it is too small, and only its beginning taken if it is too large.

        Sets of 90 and 30 questions with shares 1/2 and 1/2: 60 of the first, and the second twice.
        """
        assert self._shares is not None
        sizes = [sum(map(len, images)) for images in self._images]
        total = sum(size for size, share in zip(sizes, self._shares) if share > 0)
        wanted = round(self._shares[number] * total)
        rows, taken, questions = list(rows), [], 0
        while questions < wanted and sizes[number]:
            if not rows:
                rows = [row for image in self._images[number] for row in self._split(image, epoch, random)]
                random.shuffle(rows)
            row = rows.pop()
            taken.append(row)
            questions += len(row.examples)
        return taken

    def _split(self, image: list[int], epoch: int, random: np.random.Generator) -> list[ScheduledRow]:
        """An image's questions in random order, in as few rows of even size as their number and length allow."""
        by_tokens = math.ceil(int(self._tokens[image].sum()) / self._question_tokens)
        by_number = math.ceil(len(image) / self._batch_questions)
        rows = min(max(by_tokens, by_number), len(image))
        parts = np.array_split(random.permutation(image), rows)
        return [ScheduledRow(epoch, tuple(part.tolist())) for part in parts]


def cut_steps(rows: Iterable[Row], questions_of: Callable[[Row], int], limit: int) -> list[list[Row]]:
    """Rows, in order -> steps of at most `limit` questions; no row is cut. questions_of: how many a row has."""
    steps: list[list[Row]] = []
    step: list[Row] = []
    questions = 0
    for row in rows:
        if step and questions + questions_of(row) > limit:
            steps.append(step)
            step, questions = [], 0
        step.append(row)
        questions += questions_of(row)
    return [*steps, step]


def _by_image(mixture: Mixture, questions: range) -> list[list[int]]:
    """The questions of one data set, gathered by images, in the order of their first question."""
    groups: dict[object, list[int]] = {}
    joined = mixture.examples
    for number, (part, start) in enumerate(zip(joined.parts, joined.starts)):
        if not (len(part) and questions.start <= start < questions.stop):
            continue
        if isinstance(part, Stored):  # pictures by their number, so that no question has to be made
            for index, image in enumerate(part.image_numbers.tolist(), start):
                groups.setdefault((number, image), []).append(index)
        else:
            for index, example in enumerate(part, start):
                groups.setdefault(example.images or index, []).append(index)
    return list(groups.values())


def text_tokens(mixture: Mixture) -> np.ndarray:
    """int64[questions]: tokens that each adds to its images' row, roughly."""
    parts = [_estimates(part) for part in mixture.examples.parts]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _estimates(part: Sequence[Sample]) -> np.ndarray:
    """`_estimate` of every question of a part of the mixture."""
    if isinstance(part, Stored):
        return TEMPLATE_TOKENS - (-part.text_bytes // BYTES_PER_TOKEN)  # -(-a // b): a / b rounded up
    return np.array([_estimate(example) for example in part], np.int64)


def _estimate(example: Sample) -> int:
    """Tokens that a question or conversation adds to its images' row, roughly."""
    turns = ((example.question, example.taught_answer),) if isinstance(example, Example) else example.turns
    size = sum(len(question.encode()) + len(answer.encode()) for question, answer in turns)
    return TEMPLATE_TOKENS * len(turns) + math.ceil(size / BYTES_PER_TOKEN)
