"""LLaVA's ids of POPE's questions, however a file writes them."""

import pytest

from bridge.score import _answers_to_file, _split_llava
from vlm.errors import UserError
from vlm.files import write_json

ASKED = {name: {"1": "", "2": "", "3": "", "4": ""} for name in ("adversarial", "popular", "random")}


def whole(write) -> list[dict]:
    """An answer to every line; random's ids begin at 10,000,001, popular's at 20,000,001."""
    offsets = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
    return [{"question_id": write(at + line), "text": "Yes"} for at in offsets.values() for line in (1, 2, 3, 4)]


@pytest.mark.parametrize("write", [int, str, float])
def test_ids_are_those_of_the_lines_however_they_are_written(write):
    parts = _split_llava(whole(write), ASKED)
    assert {name: [record["question_id"] for record in part] for name, part in parts.items()} == {
        name: ["1", "2", "3", "4"] for name in ASKED
    }


@pytest.mark.parametrize("strange", [30_000_001, "30000001", "10000005", "0", "-1", "red"])
def test_an_id_of_no_line_is_named(strange):
    with pytest.raises(UserError, match=f"^question id {strange} is not one of llava_pope_test.jsonl; "):
        _split_llava([*whole(int), {"question_id": strange, "text": "Yes"}], ASKED)


def test_an_id_that_is_none_is_one_line():
    with pytest.raises(UserError, match=r"^predictions: the question id is 1\.5; needed is text or a whole number"):
        _split_llava([{"question_id": 1.5, "text": "Yes"}], ASKED)


def test_of_llavas_answers_to_all_files_one_file_takes_its_own(tmp_path, capsys):
    """Their ids 1, 2, ... are adversarial's, and random's file has the same ones."""
    path, asked = tmp_path / "answers.json", {"1": "", "2": "", "3": "", "4": ""}
    lines = [record | {"text": f"{record['question_id'] // 10_000_000}"} for record in whole(int)]
    write_json(path, lines)
    for category, text in (("adversarial", "0"), ("random", "1"), ("popular", "2")):
        assert _answers_to_file(path, {category: asked}) == {
            category: [{"question_id": key, "text": text} for key in asked]
        }
        assert f"4 of 12 are to {category}" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^question id 1 is not one of llava_pope_test\.jsonl"):
        _answers_to_file(path, {"mine": asked})
    write_json(path, lines[:4])  # of one category, with that file's ids
    assert _answers_to_file(path, {"random": asked}) == {"random": lines[:4]}
    own = [{"question_id": key, "text": "no"} for key in ("5", "10000005", "20000005")]
    write_json(path, own)  # ids of the questions' own
    assert _answers_to_file(path, {"mine": {"5": "", "10000005": "", "20000005": ""}}) == {"mine": own}
