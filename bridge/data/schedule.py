"""Which questions are in which step: a pure function of (seed, epoch, position), made before any text is tokenised.

A row plan is one image with some of its questions. Questions of an image stay together unless they are too many for a
row; a pass over the data holds every question once, or the shares that a weight asks for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridge.data.example import Example

# A guess that only decides how many questions go together; `packing.fill_rows` counts tokens exactly.
BYTES_PER_TOKEN = 3
TEMPLATE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """Examples (indices) about one image, and the pass they belong to."""

    epoch: int
    examples: tuple[int, ...]


Step = tuple[PlannedRow, ...]


class Plan:
    """Steps of a run. `sets` are data sets whose rows are kept apart; `shares` their parts of each pass, 1 together."""

    def __init__(
        self,
        sets: Sequence[Sequence[Example]],
        *,
        seed: int,
        batch_questions: int,
        question_tokens: int,
        shares: Sequence[float] | None = None,
    ):
        """question_tokens: what a row leaves for questions, its budget less the image."""
        self._seed, self._shares, self._batch_questions = seed, shares, batch_questions
        self._sizes: list[int] = []
        self._images: list[list[list[int]]] = []
        for examples in sets:
            images: dict = {}
            for example in examples:
                images.setdefault(example.image, []).append(len(self._sizes))
                self._sizes.append(_estimate(example))
            self._images.append(list(images.values()))
        self._question_tokens = max(1, question_tokens)

    def steps(self, count: int | None) -> list[Step]:
        """The first `count` steps over as many passes as they take; None: one pass."""
        planned: list[Step] = []
        epoch = 0
        while epoch == 0 or (count is not None and len(planned) < count):
            planned += self._epoch(epoch)
            epoch += 1
        return planned[:count]

    def _epoch(self, epoch: int) -> list[Step]:
        random = np.random.default_rng([self._seed, epoch])
        sets = [[row for image in images for row in self._rows(image, epoch, random)] for images in self._images]
        for rows in sets:
            random.shuffle(rows)
        if self._shares is not None:
            sets = _weighted(sets, self._shares)
        rows = [row for rows in sets for row in rows]
        random.shuffle(rows)
        return self._cut(rows)

    def _rows(self, image: list[int], epoch: int, random: np.random.Generator) -> list[PlannedRow]:
        tokens = sum(self._sizes[index] for index in image)
        parts = max(math.ceil(tokens / self._question_tokens), math.ceil(len(image) / self._batch_questions))
        order = random.permutation(image)
        parts = np.array_split(order, min(parts, len(image)))
        return [PlannedRow(epoch, tuple(part.tolist())) for part in parts]

    def _cut(self, rows: list[PlannedRow]) -> list[Step]:
        steps, step, questions = [], [], 0
        for row in rows:
            if step and questions + len(row.examples) > self._batch_questions:
                steps.append(tuple(step))
                step, questions = [], 0
            step.append(row)
            questions += len(row.examples)
        return [*steps, tuple(step)]


def _estimate(example: Example) -> int:
    text = len(example.question.encode()) + len((example.answer or "").encode())
    return TEMPLATE_TOKENS + math.ceil(text / BYTES_PER_TOKEN)


def _weighted(sets: list[list[PlannedRow]], shares: Sequence[float]) -> list[list[PlannedRow]]:
    """The longest beginnings of all sets that hold questions in the ratio of `shares`."""
    counts = [np.cumsum([len(row.examples) for row in rows]) for rows in sets]
    total = min(count[-1] / share for count, share in zip(counts, shares) if share > 0)
    return [
        rows[: int(np.searchsorted(count, share * total, side="right"))]
        for rows, count, share in zip(sets, counts, shares)
    ]
