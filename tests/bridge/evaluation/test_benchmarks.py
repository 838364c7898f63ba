"""Which questions are asked together, what is submitted, and scores with answers missing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny.official import vqav2_question, write_vqav2

from bridge.data.example import Example
from bridge.evaluation import benchmarks
from bridge.evaluation import captions as caption_files
from bridge.evaluation.batching import make_batches, shuffled
from bridge.evaluation.submissions import submissions
from vlm.errors import UserError
from vlm.files import write_json


def test_batches_ask_a_repeated_question_once(benchmark_files):
    pope = benchmarks.read_pope(benchmark_files / "pope")
    assert len(pope.examples) == 12
    assert pope.note == "POPE's random file has 4 questions: neither of POPE's own files"
    [[first, second]] = make_batches(pope.examples, batch_questions=8)
    assert first.image.name == "COCO_val2014_000000000001.jpg" and second.image.name == "COCO_val2014_000000000002.jpg"
    assert first.questions == ("Is there a cat?", "Is there a bus?", "Is there a cup?", "Is there a dog?")
    assert first.ids[0] == ("random/3", "popular/3", "adversarial/3")
    assert [len(batch) for batch in make_batches(pope.examples, batch_questions=7)] == [1, 1]
    [[blind]] = make_batches(pope.examples, batch_questions=8, blind=True)
    assert blind.image is None and blind.questions == first.questions and len(blind.ids[0]) == 6


def test_batches_put_units_of_similar_length_together():
    texts = {"a.jpg": "?" * 9, "b.jpg": "?", "c.jpg": "?" * 8, "d.jpg": "?" * 2}
    examples = [Example(name, Path(name), text, None) for name, text in texts.items()]
    planned = [[unit.image.name for unit in batch] for batch in make_batches(examples, batch_questions=2)]
    assert planned == [["b.jpg", "d.jpg"], ["c.jpg", "a.jpg"]]


def test_shuffled_gives_every_image_another():
    images = [Path(str(i)) for i in range(7)]
    pairs = shuffled(images)
    assert sorted(pairs) == sorted(pairs.values()) == images and all(a != b for a, b in pairs.items())
    assert pairs == shuffled(images)
    with pytest.raises(UserError, match="at least two images"):
        shuffled(images[:1])


def test_scores_and_submissions_with_missing_answers(benchmark_files):
    gqa = benchmarks.read_gqa(benchmark_files / "gqa", "testdev")
    scores = benchmarks.score(gqa, {"01": "Yes.", "1": "red", "2": "yes", "4": "cat"})
    assert (scores["accuracy"], scores["binary"], scores["open"], scores["missing"]) == (60.0, 66.67, 50.0, 1)
    assert benchmarks.headline("gqa", scores) == 60.0
    assert scores["per_question"] == {"01": 100.0, "1": 100.0, "2": 0.0, "3": 0.0, "4": 100.0}
    assert json.loads(submissions(gqa, {"01": "Yes."})["gqa_testdev_predictions.json"])[:2] == [
        {"questionId": "01", "prediction": "yes"},
        {"questionId": "1", "prediction": ""},
    ]

    vqav2 = benchmarks.read_vqav2(benchmark_files / "vqav2", "val2014")
    scores = benchmarks.score(vqav2, {"101": "three", "102": "Yes"})  # 3 of 10: 0.9; unanimous: lower-cased, 1
    assert scores["per_question"] == {"101": 90.0, "102": 100.0, "103": 0.0}
    assert benchmarks.headline("vqav2", scores) == 63.33
    assert json.loads(submissions(vqav2, {"102": "Yes"})["vqav2_val2014_results.json"]) == [
        {"question_id": 101, "answer": ""},
        {"question_id": 102, "answer": "yes"},
        {"question_id": 103, "answer": ""},
    ]

    pope = benchmarks.read_pope(benchmark_files / "pope")
    answers = {example.question_id: "No" for example in pope.examples if example.question_id != "random/4"}
    scores = benchmarks.score(pope, answers)
    assert [scores[category]["accuracy"] for category in ("random", "popular", "adversarial")] == [0.25, 0.5, 0.5]
    assert benchmarks.headline("pope", scores) == 41.67
    assert scores["per_question"]["random/4"] == 0.0 and scores["per_question"]["popular/4"] == 100.0
    lines = submissions(pope, answers)["pope_random_answers.json"].splitlines()
    assert [json.loads(line) for line in lines[:2]] == [
        {"question": "Is there a cat?", "answer": "No", "question_id": 3},
        {"question": "Is there a bus?", "answer": "", "question_id": 4, "answered": False},
    ]


def test_lmms_mode_and_hidden_answers(benchmark_files):
    gqa = benchmarks.read_gqa(benchmark_files / "gqa", "testdev")
    assert benchmarks.score(gqa, {"01": " YES! "}, "lmms")["accuracy"] == 20.0
    assert benchmarks.score(gqa, {"01": " YES! "})["accuracy"] == 0.0
    hidden = replace(gqa, examples=tuple(replace(example, answer=None) for example in gqa.examples))
    assert benchmarks.score(hidden, {"01": "yes"}) is None and benchmarks.headline("gqa", None) is None
    benchmarks.check_answers(gqa)
    benchmarks.check_answers(hidden)
    torn = replace(gqa, examples=(*gqa.examples[:-1], hidden.examples[-1]))
    last = hidden.examples[-1].question_id
    problem = f"GQA: 1 of {len(gqa.examples)} questions have no true answer, the first is {last}"
    with pytest.raises(UserError, match=problem):
        benchmarks.check_answers(torn)


def test_submissions_of_lmms_mode_hold_what_the_model_said(benchmark_files):
    """lmms-eval submits the stripped answer; LLaVA, and so official mode, a converted one."""
    gqa = benchmarks.read_gqa(benchmark_files / "gqa", "testdev")
    vqav2 = benchmarks.read_vqav2(benchmark_files / "vqav2", "val2014")
    for mode, said_gqa, said_vqav2 in (("official", " a dog", "dog"), ("lmms", "A Dog.", "A Dog.")):
        rows = json.loads(submissions(gqa, {"01": " A Dog."}, mode)["gqa_testdev_predictions.json"])
        assert rows[0] == {"questionId": "01", "prediction": said_gqa}
        rows = json.loads(submissions(vqav2, {"101": " A Dog."}, mode)["vqav2_val2014_results.json"])
        assert [row["answer"] for row in rows] == [said_vqav2, "", ""]


def test_a_home_folder_is_one_everywhere(benchmark_files, tmp_path, monkeypatch):
    shutil.copytree(benchmark_files / "gqa", tmp_path / "gqa")
    write_json(tmp_path / "gqa/submission_all_questions.json", {"01": {}})
    write_json(tmp_path / "gqa/testdev_choices.json", {"01": {"valid": ["yes"], "plausible": ["yes"]}})
    monkeypatch.setenv("HOME", str(tmp_path))
    whole, written = (benchmarks.read_gqa(folder, "testdev") for folder in (tmp_path / "gqa", "~/gqa"))
    assert written.choices is not None and written.submitted is not None and written == whole


def test_captions_are_found_by_path(benchmark_files, tmp_path):
    captions = caption_files.read_captions(benchmark_files / "captions.json")
    image = benchmark_files / "gqa/images/11.jpg"
    assert caption_files.caption_of(image, captions, benchmark_files) == "a picture of cat 1"
    assert caption_files.caption_of(image, captions, tmp_path) == "a picture of cat 1"  # the file lies elsewhere
    with pytest.raises(UserError, match=r"no caption of .*13\.jpg"):
        caption_files.caption_of(benchmark_files / "gqa/images/13.jpg", captions, benchmark_files)


def test_submissions_hold_every_question_that_the_servers_want(tmp_path):
    """Not test-dev's alone: the official loader refuses a file that lacks one of test2015."""
    (tmp_path / "test2015").mkdir()
    write_vqav2(tmp_path, "test-dev2015", [vqav2_question(5, 1), vqav2_question(7, 2)])
    alone = benchmarks.read_vqav2(tmp_path, "test-dev2015")
    assert len(json.loads(submissions(alone, {})["vqav2_test-dev2015_results.json"])) == 2
    assert "wants all of" in alone.note and "v2_OpenEnded_mscoco_test2015_questions.json: put it there" in alone.note
    write_vqav2(tmp_path, "test2015", [vqav2_question(key, 1) for key in (9, 5, 6, 7)])
    for split in ("test-dev2015", "test2015"):
        asked = benchmarks.read_vqav2(tmp_path, split).first_images(1)
        rows = json.loads(submissions(asked, {"5": "A Dog."})[f"vqav2_{split}_results.json"])
        assert rows == [{"question_id": key, "answer": "dog" if key == 5 else ""} for key in (9, 5, 6, 7)]
        assert asked.note == ""

    (tmp_path / "images").mkdir()
    hidden = {key: {"question": "Is it?", "imageId": key, "isBalanced": True} for key in ("02", "3")}
    write_json(tmp_path / "test_balanced_questions.json", hidden)
    assert "GQA's server wants all of" in benchmarks.read_gqa(tmp_path, "test").note
    write_json(tmp_path / "test_all_questions.json", hidden | {"4": hidden["3"]})
    asked = benchmarks.read_gqa(tmp_path, "test")
    assert len(json.loads(submissions(asked, {})["gqa_test_predictions.json"])) == 3
    chunks = tmp_path / "submission_all_questions"
    write_json(chunks / "submission_all_questions_0.json", {"1": hidden["3"], "02": hidden["02"]})
    write_json(chunks / "submission_all_questions_1.json", {"3": hidden["3"]})
    asked = benchmarks.read_gqa(tmp_path, "test")
    assert asked.note == "" and json.loads(submissions(asked, {"3": "Yes."})["gqa_test_predictions.json"]) == [
        {"questionId": "1", "prediction": ""},
        {"questionId": "02", "prediction": ""},
        {"questionId": "3", "prediction": "yes"},
    ]
