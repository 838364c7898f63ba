"""Which questions are in which step: a pure function of (seed, epoch, position), made before any text is tokenised.

A scheduled row is one image with some of its questions, or the conversations that show the same images. They stay
together unless they are too many for a row. A conversation without an image is a row of its own. An epoch, one pass
over the data, holds every question once, or the shares that weights ask for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridge.data.example import Example, Sample
from bridge.data.mixture import Mixture, answer_of

# A guess that only decides how many questions go together; `packing.fill_rows` counts tokens exactly.
BYTES_PER_TOKEN = 3
TEMPLATE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """Examples (indices into the mixture) about the same images, and the epoch they belong to."""

    epoch: int
    examples: tuple[int, ...]


Step = tuple[ScheduledRow, ...]
Shares = Sequence[float] | None  # each data set's part of an epoch, 1 together; None: all of every set


def indices(step: Step) -> list[int]:
    """The examples of a step, row by row."""
    return [index for row in step for index in row.examples]


class Schedule:
    """The order of a mixture's questions. Rows of different data sets are kept apart."""

    def __init__(self, mixture: Mixture, seed: int, batch_questions: int, question_tokens: int, shares: Shares = None):
        """batch_questions: the most in a step. question_tokens: what a row holds of them, beside the image."""
        self._seed, self._batch_questions, self._shares = seed, batch_questions, shares
        self._question_tokens = max(1, question_tokens)
        self._tokens = [_estimate(example) for example in mixture.examples]
        self._images = [_by_image(mixture, questions) for questions in mixture.sets()]

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
            sets = _weighted(sets, self._shares)
        mixed = [row for rows in sets for row in rows]
        random.shuffle(mixed)
        return self._cut(mixed)

    def _split(self, image: list[int], epoch: int, random: np.random.Generator) -> list[ScheduledRow]:
        """An image's questions in random order, in as few rows of even size as their number and length allow."""
        by_tokens = math.ceil(sum(self._tokens[index] for index in image) / self._question_tokens)
        by_number = math.ceil(len(image) / self._batch_questions)
        rows = min(max(by_tokens, by_number), len(image))
        parts = np.array_split(random.permutation(image), rows)
        return [ScheduledRow(epoch, tuple(part.tolist())) for part in parts]

    def _cut(self, rows: list[ScheduledRow]) -> list[Step]:
        """Rows, in order -> steps of at most `batch_questions` questions; no row is cut."""
        steps: list[Step] = []
        step: list[ScheduledRow] = []
        questions = 0
        for row in rows:
            if step and questions + len(row.examples) > self._batch_questions:
                steps.append(tuple(step))
                step, questions = [], 0
            step.append(row)
            questions += len(row.examples)
        return [*steps, tuple(step)]


def _by_image(mixture: Mixture, questions: range) -> list[list[int]]:
    """The questions of one data set, gathered by images, in the order of their first question."""
    groups: dict[object, list[int]] = {}
    for index in questions:
        groups.setdefault(mixture.examples[index].images or index, []).append(index)
    return list(groups.values())


def _estimate(example: Sample) -> int:
    """Tokens that a question or conversation adds to its images' row, roughly."""
    turns = ((example.question, answer_of(example)),) if isinstance(example, Example) else example.turns
    size = sum(len(question.encode()) + len(answer.encode()) for question, answer in turns)
    return TEMPLATE_TOKENS * len(turns) + math.ceil(size / BYTES_PER_TOKEN)


def _weighted(sets: list[list[ScheduledRow]], shares: Sequence[float]) -> list[list[ScheduledRow]]:
    """The longest beginnings of all sets that hold questions in the ratio of `shares`.

    Sets of 90 and 30 questions with shares 1/2 and 1/2 give 30 of each: the set that runs out first decides.
    """
    counts = [np.cumsum([len(row.examples) for row in rows]) for rows in sets]  # questions up to and with each row
    total = min(count[-1] / share for count, share in zip(counts, shares) if share > 0)
    fitting = [int(np.searchsorted(count, share * total, side="right")) for count, share in zip(counts, shares)]
    return [rows[:number] for rows, number in zip(sets, fitting)]
