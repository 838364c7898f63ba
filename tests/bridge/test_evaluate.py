"""The evaluation command on small official files: plans, scores with missing images, resuming, every kind of row."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge import benchmarks, evaluate
from bridge.answering import in_place_of_image, plan, shuffled
from bridge.vqa import Example
from vlm.errors import UserError
from vlm.logs import read_json, write_json


def save_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def gqa_record(image: str, question: str, answer: str, structural: str) -> dict:
    return {
        "imageId": image,
        "question": question,
        "answer": answer,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "attr", "detailed": "x"},
        "groups": {"global": None, "local": "x"},
        "semantic": [{"operation": "select", "argument": "cat (-)", "dependencies": []}],
        "entailed": [],
        "equivalent": [],
    }


def make_world(root: Path) -> Path:
    """gqa (3 images, 5 questions), vqav2 (2, 3) and pope (2, 3 x 4), and captions of all images."""
    questions = {
        "01": gqa_record("10", "Is it red?", "yes", "verify"),
        "1": gqa_record("10", "What color is the cat?", "red", "query"),
        "2": gqa_record("11", "Is it red?", "no", "verify"),
        "3": gqa_record("12", "What is it?", "cat", "query"),
        "4": gqa_record("12", "Is it a cat or a dog?", "cat", "choose"),
    }
    write_json(root / "gqa/testdev_balanced_questions.json", questions)
    asked = [(101, 7, "How many cats are there?"), (102, 7, "Is it red?"), (103, 8, "What is on the table?")]
    records = [{"question_id": key, "image_id": image, "question": text} for key, image, text in asked]
    write_json(root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": records})
    answers = {101: ["2"] * 7 + ["3"] * 3, 102: ["yes"] * 10, 103: ["a cat"] * 2 + ["dog"] * 8}
    annotations = [
        {
            "question_id": key,
            "image_id": image,
            "question_type": "none of the above",
            "answer_type": "other",
            "multiple_choice_answer": answers[key][0],
            "answers": [{"answer": a, "answer_id": i, "answer_confidence": "yes"} for i, a in enumerate(answers[key])],
        }
        for key, image, _ in asked
    ]
    write_json(root / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    for category, negative in (("random", "bus"), ("popular", "cup"), ("adversarial", "dog")):
        lines = [
            {"question_id": 2 * n + i + 1, "image": f"COCO_val2014_{n:012d}.jpg", "text": text, "label": label}
            for n in (1, 2)
            for i, (text, label) in enumerate([("Is there a cat?", "yes"), (f"Is there a {negative}?", "no")])
        ]
        (root / "pope").mkdir(exist_ok=True)
        (root / f"pope/coco_pope_{category}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"gqa/images/{i}.jpg" for i in (10, 11, 12)]
    files += [f"vqav2/val2014/COCO_val2014_{i:012d}.jpg" for i in (7, 8)]
    files += [f"pope/val2014/COCO_val2014_{i:012d}.jpg" for i in (1, 2)]
    for number, file in enumerate(files):
        save_picture(root / file, number)
    write_json(root / "captions.json", {file: f"a picture of cat {n}" for n, file in enumerate(files)})
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_plan_asks_a_repeated_question_once(world):
    pope = benchmarks.read_pope(world / "pope")
    assert len(pope.examples) == 12
    [[first, second]] = plan(pope.examples, batch_questions=8)
    assert first.image.name == "COCO_val2014_000000000001.jpg" and second.image.name == "COCO_val2014_000000000002.jpg"
    assert first.questions == ("Is there a cat?", "Is there a bus?", "Is there a cup?", "Is there a dog?")
    assert first.ids[0] == ("random/3", "popular/3", "adversarial/3")
    assert [len(batch) for batch in plan(pope.examples, batch_questions=7)] == [1, 1]
    [[blind]] = plan(pope.examples, batch_questions=8, blind=True)
    assert blind.image is None and blind.questions == first.questions and len(blind.ids[0]) == 6


def test_plan_puts_units_of_similar_length_together():
    texts = {"a.jpg": "?" * 9, "b.jpg": "?", "c.jpg": "?" * 8, "d.jpg": "?" * 2}
    examples = [Example(name, Path(name), text, None) for name, text in texts.items()]
    planned = [[unit.image.name for unit in batch] for batch in plan(examples, batch_questions=2)]
    assert planned == [["b.jpg", "d.jpg"], ["c.jpg", "a.jpg"]]


def test_shuffled_gives_every_image_another():
    images = [Path(str(i)) for i in range(7)]
    pairs = shuffled(images)
    assert sorted(pairs) == sorted(pairs.values()) == images and all(a != b for a, b in pairs.items())
    assert pairs == shuffled(images)
    with pytest.raises(UserError, match="at least two images"):
        shuffled(images[:1])


def test_text_in_place_of_the_image():
    assert in_place_of_image([1, 2, 9, 9, 9, 3], [4, 5], 9) == [1, 2, 4, 5, 3]


def test_scores_and_submissions_with_missing_answers(world):
    gqa = benchmarks.read_gqa(world / "gqa", "testdev")
    scores = benchmarks.score(gqa, {"01": "Yes.", "1": "red", "2": "yes", "4": "cat"})
    assert (scores["accuracy"], scores["binary"], scores["open"], scores["missing"]) == (60.0, 66.67, 50.0, 1)
    assert benchmarks.headline("gqa", scores) == 60.0
    assert scores["per_question"] == {"01": 100.0, "1": 100.0, "2": 0.0, "3": 0.0, "4": 100.0}
    assert json.loads(benchmarks.submissions(gqa, {"01": "Yes."})["gqa_testdev_predictions.json"])[:2] == [
        {"questionId": "01", "prediction": "yes"},
        {"questionId": "1", "prediction": ""},
    ]

    vqav2 = benchmarks.read_vqav2(world / "vqav2", "val2014")
    scores = benchmarks.score(vqav2, {"101": "three", "102": "Yes"})  # 3 of 10: 0.9; unanimous: lower-cased, 1
    assert scores["per_question"] == {"101": 90.0, "102": 100.0, "103": 0.0}
    assert benchmarks.headline("vqav2", scores) == 63.33
    assert json.loads(benchmarks.submissions(vqav2, {"102": "Yes"})["vqav2_val2014_results.json"]) == [
        {"question_id": 101, "answer": ""},
        {"question_id": 102, "answer": "yes"},
        {"question_id": 103, "answer": ""},
    ]

    pope = benchmarks.read_pope(world / "pope")
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


def test_lmms_mode_and_hidden_answers(world):
    gqa = benchmarks.read_gqa(world / "gqa", "testdev")
    assert benchmarks.score(gqa, {"01": " YES! "}, "lmms")["accuracy"] == 20.0
    assert benchmarks.score(gqa, {"01": " YES! "})["accuracy"] == 0.0
    hidden = replace(gqa, examples=tuple(replace(example, answer=None) for example in gqa.examples))
    assert benchmarks.score(hidden, {"01": "yes"}) is None and benchmarks.headline("gqa", None) is None


def test_captions_are_found_by_path(world, tmp_path):
    captions = benchmarks.read_captions(world / "captions.json")
    image = world / "gqa/images/11.jpg"
    assert benchmarks.caption_of(image, captions, world) == "a picture of cat 1"
    assert benchmarks.caption_of(image, captions, tmp_path) == "a picture of cat 1"  # the file lies elsewhere
    with pytest.raises(UserError, match=r"no caption of .*13\.jpg"):
        benchmarks.caption_of(world / "gqa/images/13.jpg", captions, world)
