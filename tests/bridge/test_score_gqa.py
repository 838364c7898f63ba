"""`python bridge/score.py gqa` on predictions of every form, and on those that cannot be used."""

import json

import commands
import pytest
from tiny.official import gqa_question

from vlm.files import write_json


def run(*arguments):
    return commands.start("bridge/score.py", *arguments, timeout=60)


def line(result, name):
    """The value behind `name` in the table."""
    return next(text.split()[1] for text in result.stdout.splitlines() if text.split()[:1] == [name])


@pytest.fixture
def gqa_files(tmp_path):
    """Three questions whose answers are red, yes and left, and a function that scores predictions of them."""
    questions = {"01": gqa_question("red"), "2": gqa_question("yes", "verify"), "30": gqa_question("left", "choose")}
    file = tmp_path / "q.json"
    write_json(file, questions)

    def score(text, *options):
        (tmp_path / "p").write_text(text, encoding="utf-8")
        return run("gqa", "--questions", file, "--predictions", tmp_path / "p", *options)

    return score


def test_gqa_predictions_in_every_form(gqa_files):
    answers = {"01": "red", "2": "yes", "30": "right"}
    official = [{"questionId": key, "prediction": text} for key, text in answers.items()]
    llava = [{"question_id": key, "prompt": "q", "text": text, "metadata": {}} for key, text in answers.items()]
    numbers = [{"questionId": float(key), "prediction": text} for key, text in answers.items()]
    for form in (
        json.dumps(official),
        "\ufeff" + json.dumps(official, indent=1),
        "\n".join(map(json.dumps, official)),
        "\r\n\r\n".join(map(json.dumps, llava)),
        json.dumps(numbers),
        json.dumps(answers),
    ):
        result = gqa_files(form)
        assert (result.returncode, result.stderr, line(result, "accuracy")) == (0, "", "66.67")
        assert "note" not in result.stdout and "partial" not in result.stdout


def test_predictions_of_which_none_is_text_are_no_score(gqa_files):
    result = gqa_files(json.dumps([{"questionId": key, "prediction": ["red"]} for key in ("01", "2", "30")]))
    assert result.returncode == 2
    assert result.stderr == 'error: no prediction is text, the first is ["red"]: give the answers themselves\n'


def test_what_lowers_gqa_for_its_form_is_told(gqa_files):
    answers = [{"questionId": key, "prediction": text} for key, text in (("01", "Red."), ("2", None), ("30", " left"))]
    result = gqa_files(json.dumps(answers))
    assert (result.returncode, line(result, "accuracy")) == (0, "0.00")
    assert result.stdout.splitlines()[1:3] == [
        "note: 1 of 3 predictions are not text and count as wrong, the first is null (question ids 2)",
        "note: 2 of 3 predictions count as wrong for case, punctuation or white space alone ('Red.' for 'red'): GQA's "
        "rule compares as written; --llava-processing counts 1 of the 2 as right, --mode lmms ignores case and "
        "punctuation",
    ]
    assert line(gqa_files(json.dumps(answers), "--llava-processing"), "accuracy") == "33.33"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "p holds no predictions"),
        ("", "p is empty"),
        ("[1, 2]", "p, record 1 is 1; needed is one object for each prediction"),
        (
            '[{"questionId": "2"}]',
            "p, record 1 is {'questionId': '2'}; needed is an answer under 'prediction' or 'text'",
        ),
        (
            '[{"questionId": "2", "prediction": "a"}, {"prediction": "b"}]',
            "p, record 2 is {'prediction': 'b'}; needed is",
        ),
        (
            '[{"questionId": null, "prediction": "a"}]',
            "p, record 1: the question id is None; needed is text or a whole",
        ),
        ('[{"questionId": 2.5, "prediction": "a"}]', "p, record 1: the question id is 2.5"),
        ('{"questionId": "2", "prediction": "a"}\n{"questionId":', "p, line 2 is not JSON"),
        ('{"questionId": "2", "prediction": "a"}\n' * 2, "p answers 1 questions more than once (question ids 2)"),
    ],
)
def test_predictions_that_cannot_be_used_are_one_line(gqa_files, text, message):
    result = gqa_files(text)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert message in result.stderr


def test_gqa_types_are_a_closed_set(tmp_path):
    questions, predictions = tmp_path / "q.json", tmp_path / "p.json"
    write_json(predictions, {"7": "red"})
    for question, message in (
        (gqa_question("red", "guess"), "question 7: the structural type is 'guess'; it is one of verify, query"),
        (gqa_question("red", semantic="colour"), "question 7: the semantic type is 'colour'; it is one of obj, attr"),
        ({**gqa_question("red"), "isBalanced": "true"}, "question 7: isBalanced is 'true'; needed is true or false"),
    ):
        write_json(questions, {"7": question})
        result = run("gqa", "--questions", questions, "--predictions", predictions)
        assert (result.returncode, message in result.stderr) == (2, True), result.stderr
