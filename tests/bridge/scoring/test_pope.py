"""POPE scores."""

import pytest

from bridge.scoring import pope
from vlm.errors import UserError

NO = ["No", "no", "not", "No, it is", "no. Yes", "Yes, but not here", "There is no doubt", "I am not sure", " no"]
YES = ["NO", "Not", "None", "Nope", "isn't", "cannot", "No!", "**No**", "no\n", "No\nthere", "", "Yes. No", ".No"]
YES += ["No,no", "blue", "yes", "YES"]


@pytest.mark.parametrize("text", NO)
def test_read_as_no(text):
    assert pope.parse_yes_no(text) == "no"


@pytest.mark.parametrize("text", YES)
def test_read_as_yes(text):
    assert pope.parse_yes_no(text) == "yes"


LABELS = ["yes", "yes", "yes", "no", "no", "no", "no"]
ANSWERS = ["Yes", "yes.", "no", "Yes", "No", "nothing", "not"]


def test_official_metrics():
    scores = pope.score(LABELS, ANSWERS)
    assert [scores[name] for name in ("tp", "fp", "tn", "fn")] == [2, 2, 2, 1]
    assert scores["accuracy"] == 4 / 7
    assert scores["precision"] == 2 / 4
    assert scores["recall"] == 2 / 3
    assert scores["f1"] == 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)
    assert scores["yes_ratio"] == 4 / 7
    assert scores["unparsed"] == 1  # "nothing"
    assert list(scores["per_question"].values()) == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]


def test_join_by_id():
    labels = {number: label for number, label in enumerate(LABELS, start=1)}
    answers = {str(number): answer for number, answer in reversed(list(enumerate(ANSWERS, start=1)))}
    by_order, by_id = pope.score(LABELS, ANSWERS), pope.score(labels, answers)
    assert {**by_order, "per_question": 0} == {**by_id, "per_question": 0}
    # without question 1 (yes) and 7 (no): both wrong, one more FN and FP; an answer to 8 changes nothing
    del answers["1"], answers["7"]
    scores = pope.score(labels, {**answers, "8": "yes"})
    assert [scores[name] for name in ("tp", "fp", "tn", "fn", "missing", "extra")] == [1, 3, 1, 2, 2, 1]
    assert (scores["accuracy"], scores["yes_ratio"]) == (2 / 7, 3 / 5)


def test_division_by_zero_is_zero():
    none = pope.score(["yes", "no"], ["no", "no"])
    assert [none[name] for name in ("precision", "recall", "f1", "accuracy", "yes_ratio")] == [0.0, 0.0, 0.0, 0.5, 0.0]


def test_unequal_sequences_and_wrong_types_are_refused():
    with pytest.raises(UserError, match="3 labels and 2 answers"):
        pope.score(["yes"] * 3, ["yes"] * 2)
    with pytest.raises(UserError, match="of different kinds"):
        pope.score({"1": "yes"}, ["yes"])
    with pytest.raises(UserError, match="1 answers are not strings"):
        pope.score(["yes"], [None])


def test_categories():
    labels = {"random": ["yes", "no"], "popular": ["yes", "no"]}
    answers = {"random": ["yes", "no"], "popular": ["yes", "yes"]}
    scores = pope.score(labels, answers)
    assert scores["random"]["f1"] == 1.0
    assert scores["popular"]["precision"] == 0.5
    assert scores["mean"] == {
        "accuracy": 0.75,
        "precision": 0.75,
        "recall": 1.0,
        "f1": (1 + 2 / 3) / 2,
        "yes_ratio": 0.75,
    }
    with pytest.raises(UserError, match=r"answers for \['random'\]"):
        pope.score(labels, {"random": ["yes", "no"]})


def test_lmms_mode():
    labels = ["yes", "yes", "yes", "no", "no"]
    scores = pope.score(labels, [" Yes\n", "Yes.", "no", "No", "maybe"], mode="lmms")
    assert [scores[name] for name in ("tp", "fp", "tn", "fn", "unparsed")] == [1, 0, 1, 1, 2]
    assert scores["accuracy"] == 2 / 5
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)  # "Yes." is no false negative
    assert scores["yes_ratio"] == 3 / 5  # of the labels
    both = pope.score({"a": labels, "b": ["no"]}, {"a": ["yes"] * 5, "b": ["no"]}, mode="lmms")
    assert (both["pooled"]["accuracy"], both["pooled"]["tn"], both["mean"]["accuracy"]) == (4 / 6, 1, 0.8)
