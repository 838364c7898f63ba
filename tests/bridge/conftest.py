"""Small official files that several tests of the bridge read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm.logs import write_json


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


def make_benchmarks(root: Path) -> Path:
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


@pytest.fixture(scope="session")
def benchmark_files(tmp_path_factory) -> Path:
    return make_benchmarks(tmp_path_factory.mktemp("benchmarks"))
