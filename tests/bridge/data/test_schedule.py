"""The order of questions: complete, repeatable, balanced, in the asked proportions."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from bridge.config import BridgeConfig
from bridge.data.batches import step_data
from bridge.data.example import Dialogue, Example
from bridge.data.mixture import Mixture
from bridge.data.questions import Questions
from bridge.data.schedule import BYTES_PER_TOKEN, TEMPLATE_TOKENS, Schedule, indices
from bridge.loop import scheduled_steps
from vlm.llava.model import load


def examples(name: str, images: int, questions: int) -> list[Example]:
    return [
        Example(f"{name}{image}-{number}", Path(f"{name}/{image}.jpg"), "What colour is it?"[: 4 + number], "red")
        for image in range(images)
        for number in range(questions)
    ]


def schedule(sets, **changes) -> Schedule:
    return Schedule(Mixture.of(sets), **{"seed": 0, "batch_questions": 21, "question_tokens": 500, **changes})


SETS = [examples("gqa", 30, 7), examples("vqa", 40, 3)]
FLAT = [example for part in SETS for example in part]


def drawn_in(steps) -> list[int]:
    return [index for step in steps for index in indices(step)]


def test_a_pass_holds_every_question_once_and_a_row_one_image():
    steps = schedule(SETS).steps(None)
    assert sorted(drawn_in(steps)) == list(range(len(FLAT)))
    assert all(len({FLAT[index].image for index in row.examples}) == 1 for step in steps for row in step)
    assert all(sum(len(row.examples) for row in step) <= 21 for step in steps)
    assert len(steps) <= 1.2 * len(FLAT) / 21
    assert {len(row.examples) for step in steps for row in step} == {7, 3}


def test_order_is_a_function_of_seed_and_epoch():
    steps = schedule(SETS).steps(40)
    assert len(steps) == 40
    assert schedule(SETS).steps(40) == steps
    assert schedule(SETS).steps(25) == steps[:25]
    assert schedule(SETS, seed=1).steps(40) != steps
    assert [{row.epoch for row in step} for step in steps] == sorted([{step[0].epoch} for step in steps], key=min)
    first, second = ([step for step in steps if step[0].epoch == epoch] for epoch in (0, 1))
    assert sorted(drawn_in(first)) == sorted(drawn_in(second))
    assert drawn_in(first) != drawn_in(second)


@pytest.mark.parametrize(("limits", "sizes"), [({"question_tokens": 45}, {2, 3}), ({"batch_questions": 4}, {3, 4})])
def test_an_image_with_too_many_questions_is_split_evenly(limits, sizes):
    steps = schedule([examples("gqa", 5, 7)], **limits).steps(None)
    assert sorted(drawn_in(steps)) == list(range(35))
    assert {len(row.examples) for step in steps for row in step} == sizes


@pytest.mark.parametrize(
    "shares", [(0.25, 0.75, 0.0), (0.9, 0.1, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.2, 0.3, 0.5)]
)
def test_shares_are_the_sets_parts_of_the_questions(shares):
    sets = [*SETS, examples("llava", 50, 2)]
    ends = [sum(len(part) for part in sets[: number + 1]) for number in range(3)]
    drawn = drawn_in(schedule(sets, shares=shares).steps(None))
    asked = sum(len(part) for part, share in zip(sets, shares) if share)
    assert len(drawn) == pytest.approx(asked, abs=21)
    found = [sum(start <= index < end for index in drawn) / len(drawn) for start, end in zip((0, *ends), ends)]
    assert found == pytest.approx(shares, abs=0.04)
    times = Counter(drawn)
    for share, start, end in zip(shares, (0, *ends), ends):  # a set too small for its part is repeated evenly
        counts = [times[index] for index in range(start, end)]
        assert max(counts) - min(counts) <= 1 if share else max(counts) == 0
    epochs = schedule(sets, shares=shares).steps(60)
    if (
        min(times[index] for index in range(ends[1])) == 0 and max(shares) < 1
    ):  # what one pass leaves out, another brings
        assert len(set(drawn_in(epochs))) > len(set(drawn))


class NoFeatures:
    """Images without features."""

    pins = False

    def prepare(self, images):
        return {}

    def load(self, images):
        return torch.zeros(len(images))


def test_pixels_of_a_row_that_is_dropped_are_not_kept(tiny_vlm):
    """Of two images one is broken: nothing will ask for the other, whose pixels were made ahead."""
    good, broken = Path("good.jpg"), Path("broken.jpg")
    questions = Questions(
        Mixture.of([[Dialogue("0", (good, broken), (("What is it?", "red"),))]]),
        load(tiny_vlm, "cpu", torch.float32).prompts,
        BridgeConfig(),
    )

    forgotten: list[Path] = []

    class Broken(NoFeatures):
        def prepare(self, images):
            return {broken: "truncated"}

        def forget(self, images):
            forgotten.extend(images)

    step = scheduled_steps(BridgeConfig(), questions.mixture, 16)[0]
    data = step_data(step, questions, Broken(), 8192)
    assert (data.batches, data.left_out, set(forgotten)) == ([], {0: "truncated"}, {good, broken})


def test_checkpointing_does_not_change_the_schedule(tiny_vlm):
    """Its rows hold the opening as well, so that they are more; which questions meet in a step stays."""
    vlm = load(tiny_vlm, "cpu", torch.float32)
    sets = [examples("gqa", 4, 30)]
    total = sum(TEMPLATE_TOKENS + math.ceil(len(x.question + "red") / BYTES_PER_TOKEN) for x in sets[0][:30])
    row_tokens = 16 + math.ceil(total / 3)  # the image and a third of its questions

    def prepared(checkpointing: bool):
        config = BridgeConfig(row_tokens=row_tokens, batch_questions=40, gradient_checkpointing=checkpointing)
        questions = Questions(Mixture.of(sets), vlm.prompts, config)
        steps = scheduled_steps(config, questions.mixture, 16)
        rows = sum(
            len(batch.rows.ids) for step in steps for batch in step_data(step, questions, NoFeatures(), 8192).batches
        )
        return steps, rows, len(questions.opening_ids)

    (steps, rows, opening), (same, more, nothing) = prepared(False), prepared(True)
    assert opening > 0 == nothing
    assert same == steps
    assert more >= rows > 4
    counted = schedule(sets, batch_questions=40, question_tokens=row_tokens - 16 - opening)
    assert counted.steps(None) != steps


def test_with_lora_a_short_opening_is_in_every_row(tiny_vlm, monkeypatch):
    vlm = load(tiny_vlm, "cpu", torch.float32)
    mixture = Mixture.of([examples("gqa", 1, 1)])

    def opening_ids(lora: int) -> tuple[int, ...]:
        return Questions(mixture, vlm.prompts, BridgeConfig(lora=lora)).opening_ids

    opening = opening_ids(lora=0)
    assert len(opening) > 1
    for worth, expected in ((len(opening), opening), (len(opening) + 1, ())):
        monkeypatch.setattr("bridge.data.questions.WORTH_A_PASS", worth)
        assert opening_ids(lora=8) == expected and opening_ids(lora=0) == opening
