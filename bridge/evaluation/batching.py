"""Which questions are decoded together, and which image is shown with them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridge.data.example import Example
from bridge.data.pictures import Picture
from vlm.errors import UserError

ROW_SIZE = 16  # questions that share a row of the batch; measured best of 8, 16, 32, 64 on a CPU
SORTED_BATCHES = 16  # batches whose units are sorted together by length


@dataclass(frozen=True)
class Unit:
    """Distinct questions about one image (None: blind); `ids[i]` are all question ids that ask `questions[i]`."""

    image: Picture | None
    questions: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]

    def all_ids(self) -> set[str]:
        return set().union(*self.ids)


def make_batches(examples: Sequence[Example], batch_questions: int, blind: bool = False) -> list[list[Unit]]:
    """Batches of units with about `batch_questions` questions each, neighbours similar in length.

    The batches depend on these arguments alone: as long as none of them changes, an interrupted run goes on with the
    very batches of an uninterrupted one.
    """
    batches: list[list[Unit]] = []
    window: list[Unit] = []  # units to sort by length: few at a time, so that the first answers do not wait for all
    for unit in _units(examples, blind):
        window.append(unit)
        if _count(window) >= SORTED_BATCHES * batch_questions:
            batches += _cut(window, batch_questions)
            window = []
    return batches + _cut(window, batch_questions)


def _units(examples: Sequence[Example], blind: bool) -> list[Unit]:
    """A question asked twice about an image (POPE asks its positives in three categories) is answered once.

    Blind, a question is asked once at all, and a unit is as many questions as share a row.
    """
    asked: dict[Picture | None, dict[str, list[str]]] = {}  # image -> question -> its ids
    for example in examples:
        questions = asked.setdefault(None if blind else example.image, {})
        questions.setdefault(example.question, []).append(example.question_id)
    units = []
    for image, questions in asked.items():
        size = ROW_SIZE if blind else len(questions)
        for start in range(0, len(questions), size):
            part = dict(itertools.islice(questions.items(), start, start + size))
            units.append(Unit(image, tuple(part), tuple(tuple(ids) for ids in part.values())))
    return units


def _cut(units: list[Unit], batch_questions: int) -> list[list[Unit]]:
    """Sort units by the length of their text, cut them into batches of `batch_questions`; a larger unit is alone."""
    batches: list[list[Unit]] = []  # of units alike in length: padding is paid for the longest of a batch
    for unit in sorted(units, key=lambda unit: sum(len(question) for question in unit.questions)):
        if batches and _count(batches[-1]) + len(unit.questions) <= batch_questions:
            batches[-1].append(unit)
        else:
            batches.append([unit])
    return batches


def _count(units: Sequence[Unit]) -> int:
    return sum(len(unit.questions) for unit in units)


def shuffled(images: Sequence[Picture]) -> dict[Picture, Picture]:
    """Every image -> another one: a control that keeps the questions and the pictures but not their pairs.

    Which one depends on the whole list: in a random order, each is shown the one before. A UserError for one image.
    """
    if len(images) < 2:
        raise UserError("shuffling needs at least two images; there is only one")
    order = np.random.default_rng([0, len(images)]).permutation(len(images))
    return {images[own]: images[other] for own, other in zip(order, np.roll(order, 1))}
