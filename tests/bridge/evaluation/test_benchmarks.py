"""Which questions are asked together, what is submitted, and scores with answers missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.data.example import Example
from bridge.evaluation import benchmarks
from bridge.evaluation import captions as caption_files
from bridge.evaluation.batching import make_batches, shuffled
from vlm.errors import UserError


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
    assert json.loads(benchmarks.submissions(gqa, {"01": "Yes."})["gqa_testdev_predictions.json"])[:2] == [
        {"questionId": "01", "prediction": "yes"},
        {"questionId": "1", "prediction": ""},
    ]

    vqav2 = benchmarks.read_vqav2(benchmark_files / "vqav2", "val2014")
    scores = benchmarks.score(vqav2, {"101": "three", "102": "Yes"})  # 3 of 10: 0.9; unanimous: lower-cased, 1
    assert scores["per_question"] == {"101": 90.0, "102": 100.0, "103": 0.0}
    assert benchmarks.headline("vqav2", scores) == 63.33
    assert json.loads(benchmarks.submissions(vqav2, {"102": "Yes"})["vqav2_val2014_results.json"]) == [
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
    lines = benchmarks.submissions(pope, answers)["pope_random_answers.json"].splitlines()
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


def test_captions_are_found_by_path(benchmark_files, tmp_path):
    captions = caption_files.read_captions(benchmark_files / "captions.json")
    image = benchmark_files / "gqa/images/11.jpg"
    assert caption_files.caption_of(image, captions, benchmark_files) == "a picture of cat 1"
    assert caption_files.caption_of(image, captions, tmp_path) == "a picture of cat 1"  # the file lies elsewhere
    with pytest.raises(UserError, match=r"no caption of .*13\.jpg"):
        caption_files.caption_of(benchmark_files / "gqa/images/13.jpg", captions, benchmark_files)
