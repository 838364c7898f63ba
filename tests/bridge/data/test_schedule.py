"""The order of questions: complete, repeatable, balanced, in the asked proportions."""

import math
from pathlib import Path

import pytest
import torch

from bridge.config import BridgeConfig
from bridge.data.example import Example
from bridge.data.questions import Questions
from bridge.data.schedule import BYTES_PER_TOKEN, TEMPLATE_TOKENS, Plan
from vlm.llava.model import load


def examples(name: str, images: int, questions: int) -> list[Example]:
    return [
        Example(f"{name}{image}-{number}", Path(f"{name}/{image}.jpg"), "What colour is it?"[: 4 + number], "red")
        for image in range(images)
        for number in range(questions)
    ]


def plan(sets, **changes) -> Plan:
    return Plan(sets, **{"seed": 0, "batch_questions": 21, "question_tokens": 500, **changes})


SETS = [examples("gqa", 30, 7), examples("vqa", 40, 3)]
FLAT = [example for part in SETS for example in part]


def indices(steps) -> list[int]:
    return [index for step in steps for row in step for index in row.examples]


def test_a_pass_holds_every_question_once_and_a_row_one_image():
    steps = plan(SETS).steps(None)
    assert sorted(indices(steps)) == list(range(len(FLAT)))
    assert all(len({FLAT[index].image for index in row.examples}) == 1 for step in steps for row in step)
    assert all(sum(len(row.examples) for row in step) <= 21 for step in steps)
    assert len(steps) <= 1.2 * len(FLAT) / 21
    assert {len(row.examples) for step in steps for row in step} == {7, 3}


def test_order_is_a_function_of_seed_and_epoch():
    steps = plan(SETS).steps(40)
    assert len(steps) == 40
    assert plan(SETS).steps(40) == steps
    assert plan(SETS).steps(25) == steps[:25]
    assert plan(SETS, seed=1).steps(40) != steps
    assert [{row.epoch for row in step} for step in steps] == sorted([{step[0].epoch} for step in steps], key=min)
    first, second = ([step for step in steps if step[0].epoch == epoch] for epoch in (0, 1))
    assert sorted(indices(first)) == sorted(indices(second))
    assert indices(first) != indices(second)


@pytest.mark.parametrize(("limits", "sizes"), [({"question_tokens": 45}, {2, 3}), ({"batch_questions": 4}, {3, 4})])
def test_an_image_with_too_many_questions_is_split_evenly(limits, sizes):
    steps = plan([examples("gqa", 5, 7)], **limits).steps(None)
    assert sorted(indices(steps)) == list(range(35))
    assert {len(row.examples) for step in steps for row in step} == sizes


@pytest.mark.parametrize(
    "shares", [(0.25, 0.75, 0.0), (0.9, 0.1, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.2, 0.3, 0.5)]
)
def test_shares_are_the_sets_parts_of_the_questions(shares):
    sets = [*SETS, examples("llava", 50, 2)]
    ends = [sum(len(part) for part in sets[: number + 1]) for number in range(3)]
    drawn = indices(plan(sets, shares=shares).steps(None))
    found = [sum(start <= index < end for index in drawn) / len(drawn) for start, end in zip((0, *ends), ends)]
    assert found == pytest.approx(shares, abs=0.04)
    assert len(set(drawn)) == len(drawn)
    epochs = plan(sets, shares=shares).steps(60)
    if max(shares) < 1:  # what one pass leaves out, another brings
        assert len(set(indices(epochs))) > len(drawn)


def test_checkpointing_does_not_change_the_plan(tiny_vlm):
    """Its rows hold the opening text as well, so that they are more; which questions meet in a step stays."""
    vlm = load(tiny_vlm, "cpu", torch.float32)
    sets = [examples("gqa", 4, 30)]
    total = sum(TEMPLATE_TOKENS + math.ceil(len(x.question + "red") / BYTES_PER_TOKEN) for x in sets[0][:30])
    row_tokens = 16 + math.ceil(total / 3)  # the image and a third of its questions

    def prepared(checkpointing: bool):
        config = BridgeConfig(
            "out", None, None, row_tokens=row_tokens, batch_questions=40, gradient_checkpointing=checkpointing
        )
        questions = Questions(sets, vlm, config)
        steps = questions.plan()
        rows = sum(
            len(batch.ids)
            for step in steps
            for batch, _ in questions.prepare(step, lambda images: torch.zeros(len(images))).batches
        )
        return steps, rows, len(questions.constant)

    (steps, rows, constant), (same, more, nothing) = prepared(False), prepared(True)
    assert constant > 0 == nothing
    assert same == steps
    assert more >= rows > 4
    assert Plan(sets, seed=0, batch_questions=40, question_tokens=row_tokens - 16 - constant).steps(None) != steps
