"""Answers survive a kill in the middle of a line; those of another run are refused."""

import pytest

from bridge.evaluation.predictions import Predictions, discard
from vlm.errors import UserError

ORIGIN = {"model": "abc", "sees": "images"}
QUESTIONS = {"1": "Is it red?", "2": "What is it?"}
RECORDS = [
    {"question_id": "1", "question": "Is it red?", "answer": "no"},
    {"question_id": "2", "question": "What is it?", "answer": "a café"},
]


def test_goes_on_after_a_torn_line(tmp_path):
    file = tmp_path / "predictions/gqa.jsonl"
    Predictions(file, ORIGIN, QUESTIONS).append(RECORDS)
    whole = file.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n")):
        file.write_bytes(whole[:-cut])
        again = Predictions(file, ORIGIN, QUESTIONS)
        assert again.answers == {"1": "no"}
        again.append(RECORDS[1:])
        assert file.read_bytes() == whole
    assert Predictions(file, ORIGIN, QUESTIONS).answers == {"1": "no", "2": "a café"}
    assert Predictions(file, ORIGIN, {"1": "Is it red?"}).answers == {"1": "no"}  # fewer images this time


def test_refuses_what_is_not_its_own(tmp_path):
    file = tmp_path / "gqa.jsonl"
    Predictions(file, ORIGIN, QUESTIONS).append(RECORDS)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"another run \(it differs in: model\)"):
        Predictions(file, {**ORIGIN, "model": "xyz"}, QUESTIONS)
    with pytest.raises(UserError, match="answers another question 2"):
        Predictions(file, ORIGIN, {**QUESTIONS, "2": "Where is it?"})
    file.with_suffix(".origin.json").unlink()
    with pytest.raises(UserError, match="it differs in: model, sees"):
        Predictions(file, ORIGIN, QUESTIONS)
    assert file.read_bytes() == before
    discard(file)
    assert Predictions(file, ORIGIN, QUESTIONS).answers == {}


def test_damage_before_the_last_line_is_an_error(tmp_path):
    file = tmp_path / "gqa.jsonl"
    Predictions(file, ORIGIN, QUESTIONS).append(RECORDS)
    file.write_bytes(b"{torn\n" + file.read_bytes())
    with pytest.raises(UserError, match="line 1 is not JSON"):
        Predictions(file, ORIGIN, QUESTIONS)


def test_answers_about_another_image_of_the_same_name_are_refused(tmp_path):
    file, image, other = tmp_path / "gqa.jsonl", tmp_path / "a/1.jpg", tmp_path / "b/1.jpg"
    for path, content in ((image, b"red"), (other, b"a blurred red")):
        path.parent.mkdir()
        path.write_bytes(content)
    about = {"image": "1.jpg", "image_bytes": 3}
    Predictions(file, ORIGIN, QUESTIONS, {"1": image}).append([{**RECORDS[0], **about}, RECORDS[1]])
    assert Predictions(file, ORIGIN, QUESTIONS, {"1": image, "2": image}).answers == {"1": "no", "2": "a café"}
    for wrong in (other, image.rename(tmp_path / "a/2.jpg")):
        with pytest.raises(UserError, match=f"answers question 1 about another image than {wrong}; choose another"):
            Predictions(file, ORIGIN, QUESTIONS, {"1": wrong})


@pytest.mark.parametrize("line", ['{"question_id": ["1"], "question": "x", "answer": "y"}', '{"question_id": "1"}',
                                  '{"question_id": "1", "question": "Is it red?", "answer": null}'])  # fmt: skip
def test_lines_and_origins_of_another_form_are_one_line(tmp_path, line):
    file = tmp_path / "gqa.jsonl"
    Predictions(file, ORIGIN, QUESTIONS).append(RECORDS)
    whole = file.read_bytes()
    file.write_bytes(whole + line.encode() + b"\n")
    with pytest.raises(UserError, match="holds a line that is no prediction: "):
        Predictions(file, ORIGIN, QUESTIONS)
    file.write_bytes(whole)
    file.with_suffix(".origin.json").write_text("[]")
    with pytest.raises(UserError, match="it differs in: model, sees"):
        Predictions(file, ORIGIN, QUESTIONS)
