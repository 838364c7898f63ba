"""The order of questions: complete, repeatable, balanced, in the asked proportions."""

from pathlib import Path

import pytest

from bridge.plan import Plan
from bridge.vqa import Example


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


@pytest.mark.parametrize("weight", [0.25, 0.9, 0.0, 1.0])
def test_weight_is_the_first_sets_share_of_the_questions(weight):
    drawn = indices(plan(SETS, weight=weight).steps(None))
    share = sum(index < len(SETS[0]) for index in drawn) / len(drawn)
    assert abs(share - weight) < 0.04
    assert len(set(drawn)) == len(drawn)
    epochs = plan(SETS, weight=weight).steps(60)
    if 0 < weight < 1:  # what one pass leaves out, another brings
        assert len(set(indices(epochs))) > len(drawn)
