"""GQA scores against values worked out by hand from the official rules."""

import copy

import pytest
from tiny.official import gqa_question as question

from bridge.scoring import gqa
from vlm.errors import UserError


def predictions(answers):
    return [{"questionId": key, "prediction": answer} for key, answer in answers.items()]


def test_exact_match_and_types():
    questions = {
        "01": question("red"),
        "1": question("Blue", semantic="rel"),
        "2": question("yes", "verify", "obj"),
        "3": question("left", "choose", "rel"),
        "4": question("no", "verify", balanced=False),
    }
    answers = {"01": "red", "1": "blue", "2": "yes", "3": "left ", "4": "no"}
    before = copy.deepcopy(questions)
    scores = gqa.score(questions, predictions(answers))
    assert questions == before
    assert scores["per_question"] == {"01": 100.0, "1": 0.0, "2": 100.0, "3": 0.0}
    assert (scores["accuracy"], scores["open"], scores["binary"]) == (50.0, 50.0, 50.0)
    assert scores["per_structural_type"] == {"query": 50.0, "verify": 100.0, "choose": 0.0}
    assert scores["per_semantic_type"] == {"attr": 100.0, "rel": 0.0, "obj": 100.0}
    assert scores["counts"]["structural_type"] == {"query": 2, "verify": 1, "choose": 1}
    assert (scores["validity"], scores["plausibility"], scores["distribution"]) == (0.0, 0.0, 0.0)
    processed = gqa.score(questions, predictions({**answers, "01": "Red..", "1": "Blue"}), llava_processing=True)
    assert processed["per_question"]["01"] == 100.0  # "Red.." -> "red"
    assert processed["per_question"]["1"] == 0.0  # "blue" is not "Blue"
    assert processed["predictions"] == "processed as LLaVA does"


def test_lmms_mode_ignores_case_and_punctuation():
    questions = {"1": question("T-shirt"), "2": question("yes"), "3": question("no")}
    scores = gqa.score(questions, predictions({"1": " tshirt\n", "2": "Yes!", "3": "no ."}), mode="lmms")
    assert scores["per_question"] == {"1": 100.0, "2": 100.0, "3": 0.0}  # "no ." is stripped before, not after
    assert scores["accuracy"] == 66.67


def test_choices_and_common():
    questions = {"1": question("red"), "2": question("color", detailed="twoCommon"), "3": question("blue")}
    choices = {
        "1": {"valid": ["red", "green"], "plausible": ["red"]},
        "2": {"valid": ["wood"], "plausible": ["wood"]},
        "3": {"valid": ["blue"], "plausible": ["blue"]},
    }
    scores = gqa.score(questions, predictions({"1": "green", "2": "shape", "3": "Blue"}), choices)
    assert (scores["validity"], scores["plausibility"]) == (66.67, 33.33)
    with pytest.raises(UserError, match=r"no entry for 1 of 3 balanced questions \(2\)"):
        gqa.score(questions, [], {"1": choices["1"], "3": choices["3"]})


def test_steps_leave_out_the_phrasing():
    def step(operation, argument):
        return {"operation": operation, "argument": argument, "dependencies": []}

    steps = [
        step("select", "dog (1)"),
        step("relate", "man,holding,s (2)"),
        step("exist", "?"),
        step("query", "name"),
        step("query", "color"),
        step("choose name", "cat|dog"),
        step("verify", "existing"),
    ]
    scores = gqa.score({"1": question("red", steps=steps)}, predictions({"1": "red"}))
    assert scores["per_steps"] == {3: 100.0}  # select, relate, query: color


def test_consistency_is_over_correct_balanced_questions():
    questions = {
        "1": question("a", entailed=["1", "2", "3"]),  # correct; of 2 and 3 one is right -> 0.5
        "2": question("b", entailed=["1"]),  # wrong: not counted
        "3": question("c", balanced=False, entailed=["2"]),  # not balanced: not counted
        "4": question("d", entailed=["4"]),  # entails only itself: not counted
        "5": question("e", entailed=["3"]),  # correct -> 1.0
    }
    scores = gqa.score(questions, predictions({"1": "a", "2": "x", "3": "c", "4": "d", "5": "e"}))
    assert (scores["consistency"], scores["entailed_left_out"]) == (75.0, 0)


def test_balanced_predictions_only():
    questions = {
        "1": question("a", entailed=["2", "3", "9"]),
        "2": question("b"),
        "3": question("c", balanced=False),
        "4": question("d", entailed=["3"]),
    }
    scores = gqa.score(questions, predictions({"1": "a", "4": "d", "77": "x"}))
    # 2 is balanced, so wrong without a prediction; 3 and 9 are left out, and 4 has nothing left
    assert (scores["accuracy"], scores["missing"], scores["extra"]) == (66.67, 1, 1)
    assert (scores["consistency"], scores["entailed_left_out"]) == (0.0, 3)


def test_distribution():
    questions = {
        "1": question("red", group="color"),
        "2": question("red", group="color"),
        "3": question("blue", group="color"),
        "4": question("cat", group="animal"),
        "5": question("dog", group=None),
    }
    answers = {"1": "blue", "2": "blue", "3": "blue", "4": "cow", "5": "x"}
    # color: red (0-2)^2/2 = 2, blue (3-1)^2/1 = 4 -> 6, weight 3; animal: (0-1)^2/1 = 1, weight 1 -> 19/4 = 4.75
    assert gqa.score(questions, predictions(answers))["distribution"] == 0.05
    many = {f"{key}.{copied}": question for key, question in questions.items() for copied in range(100)}
    answers = {f"{key}.{copied}": answer for key, answer in answers.items() for copied in range(100)}
    assert gqa.score(many, predictions(answers))["distribution"] == 4.75


def test_last_prediction_counts_and_others_than_strings_are_wrong():
    twice = [*predictions({"1": "red", "2": "3"}), *predictions({"1": "blue", "2": 3})]
    scores = gqa.score({"1": question("blue"), "2": question("3", group="g")}, twice)
    assert scores["per_question"] == {"1": 100.0, "2": 0.0}


def test_unusable_files():
    with pytest.raises(UserError, match="none of the 1 questions is balanced"):
        gqa.score({"1": question("a", balanced=False)}, [])
    with pytest.raises(UserError, match="question 1 has no 'answer'"):
        gqa.score({"1": {"question": "x", "imageId": "1", "isBalanced": True}}, [])
    with pytest.raises(UserError, match=r"prediction 1 is .*; needed is an object with 'questionId' and 'prediction'"):
        gqa.score({"1": question("a")}, [{"question_id": "1", "answer": "a"}])
    with pytest.raises(UserError, match="questions is no GQA question"):  # VQAv2's file
        gqa.score({"info": {}, "questions": [{"question_id": 1}]}, [])
    for field, value in (("types", "query"), ("types", {"structural": "query"}), ("groups", None), ("semantic", ["x"])):
        with pytest.raises(UserError, match=f"question 1: '{field}' must be"):
            gqa.score({"1": {**question("a"), field: value}}, [])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"types": {"structural": "query", "semantic": "obj", "detailed": None}},
            "question 1: the detailed type is None",
        ),
        ({"groups": {"global": ["a"]}}, r"question 1: its global group is \['a'\]; needed is text or null"),
        ({"entailed": None}, "question 1: 'entailed' is None; needed is a list"),
    ],
)
def test_records_of_a_wrong_form(change, problem):
    with pytest.raises(UserError, match=problem):
        gqa.score({"1": {**question("a"), **change}}, [])


def test_choices_and_other_answers_of_a_wrong_form():
    for choices in ({"1": {"valid": ["a"]}}, {"1": {"valid": None, "plausible": []}}, {"1": []}):
        with pytest.raises(
            UserError, match="the choices of question 1 must be an object with lists valid and plausible"
        ):
            gqa.score({"1": question("a")}, predictions({"1": "a"}), choices)
    for answer in ({}, {"answer": 3}):
        other = {key: value for key, value in question("b", balanced=False).items() if key != "answer"} | answer
        with pytest.raises(UserError, match=f"question 2: its answer is {answer.get('answer')}; needed is text"):
            gqa.score({"1": question("a"), "2": other}, predictions({"2": "b"}))
