"""Four answers beside the truth: of four kinds, the same for every model, counted as they are."""

import re

import pytest
from PIL import Image
from study.shown import _beside, as_text, choose, draw, first_right

from bridge.data import official
from vlm.errors import UserError
from vlm.files import append_jsonl, read_json, write_json

KINDS = ["GQA, open", "GQA, a choice", "VQAv2, a number", "POPE, yes or no"]


TESTDEV = ("testdev", "test-dev2015", "pope")


def evaluate(world, folder, answer, places=TESTDEV):
    """An evaluation of `world` in which `answer(example)` is what a model says; exact answers count.

    places: GQA's and VQAv2's split, POPE's folder.
    """
    folder.mkdir()
    gqa, vqav2, pope_folder = places
    pope = official.pope(world / pope_folder, "adversarial")
    sets = {"gqa": official.gqa(world / "gqa", gqa), "vqav2": official.vqav2(world / "vqav2", vqav2)}
    for name, prefix, examples in [
        *((name, "", found) for name, found in sets.items()),
        ("pope", "adversarial/", pope),
    ]:
        scores = {}
        (folder / "predictions").mkdir(exist_ok=True)
        for example in examples:
            key, said = prefix + example.question_id, answer(example)
            append_jsonl(folder / f"predictions/{name}.jsonl", {"question_id": key, "answer": said})
            scores[key] = 100.0 if said == example.answer else 0.0
        write_json(folder / f"per_question/{name}.json", {"scores": scores})
    write_json(folder / "results.json", {"summary": {"mean": 47.7}})
    return folder


def test_the_same_questions_for_a_model_that_knows_and_one_that_does_not(world_root, tmp_path):
    knows = evaluate(world_root, tmp_path / "knows", lambda example: example.answer)
    fails = evaluate(world_root, tmp_path / "fails", lambda example: "nothing")
    right, wrong = (choose(world_root, folder, "test-dev2015", seed=3) for folder in (knows, fails))
    assert [one.kind for one in right] == KINDS
    assert [one.example for one in right] == [one.example for one in wrong]
    assert [one.answer for one in right] == [one.example.answer for one in wrong]
    assert right[3].answer in ("yes", "no") and right[2].answer.isdigit()
    assert as_text(right, knows).endswith("4 of these 4 are right; the mean of the benchmarks is 48 %")
    assert first_right(wrong) == wrong[0]
    assert first_right([wrong[0], right[1], right[2]]) == right[1]
    lines = as_text(wrong, fails).splitlines()
    assert lines[-1] == "0 of these 4 are right; the mean of the benchmarks is 48 %"
    question = right[0].example.question
    assert re.split("  +", lines[1]) == ["GQA, open", question, "nothing", right[0].answer, "wrong"]
    assert {line.index("nothing") for line in lines[1:5]} == {lines[0].index("answer")}


def test_the_picture_and_an_evaluation_without_answers(world_root, tmp_path):
    knows = evaluate(world_root, tmp_path / "knows", lambda example: example.answer)
    draw(choose(world_root, knows, "test-dev2015", seed=0), tmp_path / "new/examples.png")
    with Image.open(tmp_path / "new/examples.png") as picture:
        assert picture.size == (1800, 540) and len(picture.convert("RGB").getcolors(1 << 20)) > 500
    scores = dict(list(read_json(knows / "per_question/pope.json")["scores"].items())[:1])
    write_json(knows / "per_question/pope.json", {"scores": scores})  # scored again, over fewer images
    assert list(scores) == [f"adversarial/{choose(world_root, knows, 'test-dev2015', 0)[3].example.question_id}"]
    (knows / "predictions/pope.jsonl").write_text("")
    with pytest.raises(UserError, match="answers no question of the kind 'POPE, yes or no'"):
        choose(world_root, knows, "test-dev2015", seed=0)


def test_an_evaluation_of_the_worlds_val_split(world_root, tmp_path):
    """Its GQA and POPE are val's as well; they were looked for among testdev's."""
    knows = evaluate(world_root, tmp_path / "val", lambda example: example.answer, ("val", "val2014", "pope_val"))
    shown = choose(world_root, knows, "val2014", seed=0)
    assert [one.kind for one in shown] == KINDS and all(one.is_right for one in shown)
    assert shown[0].example in official.gqa(world_root / "gqa", "val")
    assert shown[3].example in official.pope(world_root / "pope_val", "adversarial")
    with pytest.raises(UserError, match="answers no question of the kind 'GQA, open'"):
        choose(world_root, knows, "test-dev2015", seed=0)


def test_pictures_have_two_folders_of_pope(tmp_path):
    """Of scripts/prepare_pictures.py: minival2014 to choose settings on, val2014 to report."""
    for name in ("pope", "pope_val"):
        (tmp_path / name).mkdir()
    assert [_beside(tmp_path, split)[1] for split in ("val2014", "minival2014")] == ["pope", "pope_val"]
    (tmp_path / "gqa").mkdir()
    assert _beside(tmp_path, "val2014") == ("val", "pope_val")
    (tmp_path / "pope_val").rmdir()  # official files: POPE's images are COCO's val2014
    assert _beside(tmp_path, "val2014") == ("testdev", "pope")


def test_a_picture_that_cannot_be_written_leaves_the_old_one(world_root, tmp_path, full_disk):
    knows = evaluate(world_root, tmp_path / "knows", lambda example: example.answer)
    shown = choose(world_root, knows, "test-dev2015", seed=0)
    full_disk(tmp_path / "examples.png", lambda file: draw(shown, file))
