"""GQA, VQAv2 and POPE records and files in the official layout."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tiny import pictures
from vlm.files import write_json

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
ONE_STEP = ({"operation": "select", "argument": "cat (-)", "dependencies": []},)


def gqa_question(
    answer: str,
    structural: str = "query",
    semantic: str = "attr",
    detailed: str = "directOf",
    *,
    question: str = "What is it?",
    image: str = "1",
    balanced: bool = True,
    group: str | None = None,
    steps: Sequence[dict] = ONE_STEP,
    entailed: Sequence[str] = (),
) -> dict:
    """One question with every field that the official scorer reads."""
    return {
        "imageId": image,
        "question": question,
        "answer": answer,
        "isBalanced": balanced,
        "groups": {"global": group, "local": "x"},
        "types": {"structural": structural, "semantic": semantic, "detailed": detailed},
        "semantic": list(steps),
        "entailed": list(entailed),
        "equivalent": [],
    }


def vqav2_question(key: int, image: int, text: str = "Is it red?") -> dict:
    return {"image_id": image, "question": text, "question_id": key}


def vqav2_annotation(
    key: int, answers: Iterable[str], question_type: str = "what", answer_type: str = "other", image: int = 1
) -> dict:
    """The answers of ten people, or of fewer; the first counts as the most common one."""
    votes = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number, answer in enumerate(answers, start=1)
    ]
    return {
        "question_id": key,
        "image_id": image,
        "question_type": question_type,
        "answer_type": answer_type,
        "multiple_choice_answer": votes[0]["answer"],
        "answers": votes,
    }


def pope_line(key: int, image: str, text: str, label: str) -> dict:
    return {"question_id": key, "image": image, "text": text, "label": label}


def write_lines(path: Path, records: Iterable[dict]) -> Path:
    """JSON lines; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_vqav2(root: Path, split: str, questions: list[dict], annotations: list[dict] | None = None) -> None:
    """The split's question file, and its annotation file if there are annotations."""
    write_json(root / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
    if annotations is not None:
        write_json(root / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})


def write_benchmarks(root: Path) -> Path:
    """gqa (3 images, 5 questions), vqav2 (2, 3) and pope (2, 3 x 4), and captions of all images."""
    write_json(
        root / "gqa/testdev_balanced_questions.json",
        {
            "01": gqa_question("yes", "verify", image="10", question="Is it red?"),
            "1": gqa_question("red", "query", image="10", question="What color is the cat?"),
            "2": gqa_question("no", "verify", image="11", question="Is it red?"),
            "3": gqa_question("cat", "query", image="12", question="What is it?"),
            "4": gqa_question("cat", "choose", image="12", question="Is it a cat or a dog?"),
        },
    )
    asked = [(101, 7, "How many cats are there?"), (102, 7, "Is it red?"), (103, 8, "What is on the table?")]
    answers = {101: ["2"] * 7 + ["3"] * 3, 102: ["yes"] * 10, 103: ["a cat"] * 2 + ["dog"] * 8}
    write_vqav2(
        root / "vqav2",
        "val2014",
        [vqav2_question(*question) for question in asked],
        [vqav2_annotation(key, answers[key], "none of the above", image=image) for key, image, _ in asked],
    )
    for category, negative in (("random", "bus"), ("popular", "cup"), ("adversarial", "dog")):
        lines = []
        for number in (1, 2):
            image = f"COCO_val2014_{number:012d}.jpg"
            lines.append(pope_line(2 * number + 1, image, "Is there a cat?", "yes"))
            lines.append(pope_line(2 * number + 2, image, f"Is there a {negative}?", "no"))
        write_lines(root / f"pope/coco_pope_{category}.json", lines)
    files = [f"gqa/images/{number}.jpg" for number in (10, 11, 12)]
    files += [f"vqav2/val2014/COCO_val2014_{number:012d}.jpg" for number in (7, 8)]
    files += [f"pope/val2014/COCO_val2014_{number:012d}.jpg" for number in (1, 2)]
    for number, file in enumerate(files):
        pictures.save(pictures.noise(24, 24, seed=number), root / file, quality=95)
    write_json(root / "captions.json", {file: f"a picture of cat {number}" for number, file in enumerate(files)})
    return root


def write_training_sets(root: Path) -> Path:
    """24 plain squares: GQA's two questions ask for the colour, VQAv2's three whether it is a given one."""
    gqa, questions, annotations = {}, [], []
    random = np.random.default_rng(0)
    for number in range(24):
        colour = list(COLOURS)[number % 3]
        pixels = np.array(COLOURS[colour]) + random.integers(-20, 21, (16, 16, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        pictures.save(image, root / f"gqa/images/{number}.jpg")
        pictures.save(image, root / f"vqav2/train2014/COCO_train2014_{number:012d}.jpg")
        for variant, question in enumerate(("What colour is it?", "Which colour?")):
            gqa[f"{number}-{variant}"] = {"question": question, "answer": colour, "imageId": str(number)}
        for other, asked in enumerate(COLOURS):
            key = number * 10 + other
            questions.append(vqav2_question(key, number, f"Is it {asked}?"))
            annotations.append(vqav2_annotation(key, ["yes" if asked == colour else "no"] * 10, image=number))
    write_json(root / "gqa/train_balanced_questions.json", gqa)
    write_vqav2(root / "vqav2", "train2014", questions, annotations)
    return root
