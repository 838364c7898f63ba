"""VQAv2 scores against values worked out by hand from the official rules."""

import copy

import pytest
from tiny.official import vqav2_annotation as annotation

from bridge.scoring import vqav2
from vlm.errors import UserError

NORMALISED = [
    ("Yes", "yes"),
    ("the U.S., two-day", "us 2 day"),  # ", " deletes every comma, "-" touches no space and becomes one
    ("red-blue -green", "redblue green"),  # one "-" beside a space: all of them go without a space
    ("red-blue", "red blue"),
    ("red\n-blue-green", "red bluegreen"),  # the newline is a space before punctuation is looked at
    ("5-10, 1,000", "510 1000"),  # digit,comma,digit anywhere: every mark goes without a space
    ("1,000-2,000", "10002000"),
    ("1,,000", "1 000"),
    ("a,b", "b"),
    ("1,a", "1"),
    ("3.", "3"),
    ("3.5", "3.5"),
    (".5", ".5"),
    ("no.1", "no.1"),
    ("u.s.", "us"),
    ("a.b", "ab"),
    ("None of the ten", "0 of 10"),
    ("eleven ones", "eleven ones"),
    ("a the An", ""),
    ("dont", "don't"),
    ("Im", "im"),  # the map's key has a capital I, the word has not
    ("somebody'd", "somebodyd"),
    ("let's", "let's"),
    ("who?!", "who"),
    ("it’s 50% & $5: 'ok'", "it’s 50% & $5: 'ok'"),
    ("red\u00a0\u00a0car", "red car"),
    ("one a,b the dont", "1 b don't"),
]


@pytest.mark.parametrize(("text", "expected"), NORMALISED)
def test_normalise_answer(text, expected):
    assert vqav2.normalise_answer(text) == expected


def test_only_32_periods_are_deleted():
    assert vqav2.normalise_answer("x." * 40) == "x" * 32 + "x." * 8


def test_contractions_are_package_data():
    assert len(vqav2.CONTRACTIONS) == 114
    assert vqav2.CONTRACTIONS["yall'd've"] == "y'all'd've"


def test_process_as_llava():
    assert vqav2.process_as_llava("Red,Blue") == "redblue"
    assert vqav2.process_as_llava("The dog's") == "dog 's"
    assert vqav2.process_as_llava("1,000-2,000") == "1000 2000"


def score_one(answers, prediction, ids=True, **options):
    """The scores of one question; without `ids`, equal answers are equal objects."""
    record = annotation(7, answers)
    if not ids:
        record["answers"] = [{"answer": answer} for answer in answers]
    return vqav2.score(None, {"annotations": [record]}, [{"question_id": 7, "answer": prediction}], **options)


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 30.0), (2, 60.0), (3, 90.0), (4, 100.0), (9, 100.0)])
def test_leave_one_out(matches, expected):
    assert score_one(["red"] * matches + ["blue"] * (10 - matches), "Red.")["overall"] == expected


def test_unanimous_answers_compare_as_written():
    assert score_one(["yes"] * 10, "Yes")["overall"] == 0.0
    assert score_one(["yes"] * 10, " yes\n")["overall"] == 100.0
    assert score_one(["two dogs "] * 5 + ["two dogs"] * 5, "2 dogs")["overall"] == 0.0  # distinct after stripping only
    assert score_one(["yes"] * 9 + ["Yes"], "YES")["overall"] == 100.0
    assert score_one(["yes"] * 10, "Yes", llava_processing=True)["overall"] == 100.0


def test_leave_one_out_compares_whole_objects():
    assert score_one(["yes"] * 6 + ["no"] * 4, "yes", ids=False)["overall"] == 40.0
    assert (
        score_one(["Two"] * 6 + ["2"] * 4, "2", ids=False)["overall"] == 0.0
    )  # equal after normalisation: all removed
    assert score_one(["yes"], "yes")["overall"] == 0.0


def test_articles_alone_match_each_other():
    assert score_one(["a"] * 9 + ["red"], "the")["overall"] == 100.0


def official_case():
    annotations = {
        "annotations": [
            annotation(1, ["yes"] * 7 + ["no"] * 3, "is the", "yes/no"),
            annotation(2, ["2"] * 2 + ["3"] * 8, "how many", "number"),
            annotation(3, ["1"] * 1 + ["red"] * 9, "is the", "other"),
        ]
    }
    predictions = [
        {"question_id": 3, "answer": "one"},
        {"question_id": 1, "answer": "blue"},
        {"question_id": 2, "answer": "two"},
        {"question_id": "1", "answer": "no"},
    ]
    return annotations, predictions


def test_score_totals_rounding_and_inputs_untouched():
    annotations, predictions = official_case()
    before = copy.deepcopy((annotations, predictions))
    scores = vqav2.score({"questions": []}, annotations, predictions)
    assert (annotations, predictions) == before
    # of two predictions for question 1 the last counts: no, 3 of 10 -> 0.9; then 0.6 and 0.3
    assert scores["per_question"] == {"1": 90.0, "2": 60.0, "3": 30.0}
    assert scores["overall"] == 60.0
    assert scores["per_question_type"] == {"is the": 60.0, "how many": 60.0}
    assert scores["per_answer_type"] == {"yes/no": 90.0, "number": 60.0, "other": 30.0}
    assert (scores["predictions"], scores["questions"], scores["missing"]) == ("as given", 3, 0)


def test_means_are_over_unrounded_scores():
    annotations = [annotation(number, ["red"] * 3) for number in range(3)]  # 2 others of 3: 2/3 each
    predictions = [{"question_id": number, "answer": "red" if number else "blue"} for number in range(3)]
    scores = vqav2.score(None, annotations, predictions)
    assert scores["per_question"] == {"0": 0.0, "1": 66.67, "2": 66.67}
    assert scores["overall"] == 44.44


def test_ids_must_match():
    annotations, predictions = official_case()
    with pytest.raises(UserError, match=r"3 questions and 2 predictions do not match; 1 questions have no .* \(3\)"):
        vqav2.score(None, annotations, predictions[1:])
    with pytest.raises(UserError, match=r"1 predictions are for other questions \(01\)"):
        vqav2.score(None, annotations, [*predictions, {"question_id": "01", "answer": "no"}])
    partial = vqav2.score(None, annotations, predictions[1:], allow_missing=True)
    assert (partial["overall"], partial["missing"], partial["per_question"]["3"]) == (50.0, 1, 0.0)
    with pytest.raises(UserError, match=r"1 predicted answers are not strings .question ids 2."):
        vqav2.score(None, annotations, [*predictions, {"question_id": 2, "answer": 2}])


def test_lmms_mode_always_normalises():
    assert score_one(["yes"] * 10, "Yes.", mode="lmms")["overall"] == 100.0
    # there a run of commas between digits counts too: "1,,000-5" -> "10005", officially "1 000 5"
    assert score_one(["10005"] * 9 + ["6"], "1,,000-5", mode="lmms")["exact_match"] == 1.0
    assert score_one(["10005"] * 9 + ["6"], "1,,000-5")["overall"] == 0.0
    with pytest.raises(UserError, match="mode 'lms' is unknown"):
        score_one(["yes"] * 10, "yes", mode="lms")


def test_annotations_of_another_form():
    record = {"question_id": 1, "question_type": "what", "answer_type": "other", "answers": [{"answer": "a"}]}
    with pytest.raises(UserError, match="annotation 2 has no 'question_id'"):
        vqav2.score(None, [record, 5], {"1": "a"})
    for answers in ("a", ["a"], [{"text": "a"}], [{"answer": 2}]):
        with pytest.raises(UserError, match="annotation 1: its answers are not objects with a text"):
            vqav2.score(None, [{**record, "answers": answers}], {"1": "a"})
