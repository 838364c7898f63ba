"""easy-VQA in VQAv2's files and caption shards. See scripts/prepare_easy_vqa.py."""

import importlib.util
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vlm.errors import UserError
from vlm.files import write_json
from vlm.run.progress import progress
from world.formats import write_shard, write_vqav2
from world.making import made_whole
from world.vqav2 import answer_type

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
# The prefixes among VQAv2's 65 question types that easy-VQA's questions have; the longest one counts.
QUESTION_TYPES = (
    "what is the color of the",
    "what color is the",
    "what is the",
    "what",
    "is there a",
    "is there",
    "is",
    "does the",
)
FOLDERS = {"train2014": "train2014", "minival2014": "val2014", "val2014": "val2014"}
# easy-VQA numbers both splits from 0; COCO's ids are unique.
FIRST_ID = {"train": 10_000, "test": 20_000}
SHARD = 500  # images in a tar
OPENINGS = ("", "", "there is ", "a picture of ", "a drawing of ", "the image shows ")


@dataclass(frozen=True)
class Picture:
    """One image: its COCO-like id, its PNG file, its (question, answer) pairs in easy-VQA's order."""

    image_id: int
    path: Path
    pairs: tuple[tuple[str, str], ...]


def load(split: str) -> list[Picture]:
    """easy-VQA's train or test split, by image id. Raises: UserError if the package is not installed."""
    if importlib.util.find_spec("easy_vqa") is None:
        raise UserError("the package easy-vqa is not installed; run: pip install easy-vqa")
    import easy_vqa

    questions, answers, numbers, paths = _read_package(easy_vqa, split)
    pairs: dict[int, list[tuple[str, str]]] = {number: [] for number in sorted(paths)}
    for question, answer, number in zip(questions, answers, numbers):
        pairs[number].append((question, answer))
    return [Picture(FIRST_ID[split] + number, Path(paths[number]), tuple(asked)) for number, asked in pairs.items()]


def _read_package(easy_vqa: Any, split: str) -> tuple[list[str], list[str], list[int], dict[int, str]]:
    """Questions, their answers and image numbers, and image number -> file. The package's functions are untyped."""
    if split == "train":
        return (*easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths())
    return (*easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths())


def prepare(out: Path, train: list[Picture], test: list[Picture], val_fraction: float) -> dict[str, dict[str, int]]:
    """Write everything to `out`, which must be missing or empty; returns the counts of each split.

    The folder appears whole: the work is done beside it and renamed.
    Raises: UserError if `val_fraction` leaves no picture to train on, or `out` cannot be written.
    """
    held_out = held_out_places(len(train), val_fraction)
    splits = {
        "train2014": [picture for position, picture in enumerate(train) if position not in held_out],
        "minival2014": [picture for position, picture in enumerate(train) if position in held_out],
        "val2014": test,
    }
    with made_whole(out) as partial:
        with progress(sum(map(len, splits.values())), "easy-VQA", "image") as bar:
            counts = {split: write_split(partial, split, pictures, bar) for split, pictures in splits.items()}
        write_json(partial / "easy_vqa.json", {"val_fraction": val_fraction, "splits": counts})
    return counts


def held_out_places(count: int, val_fraction: float) -> set[int]:
    """Which of `count` train pictures go to minival2014: one at least, and not all of them.

    Raises: UserError if none would be left to train on.
    """
    held = max(1, round(val_fraction * count))
    if held >= count:
        problem = f"{held:,} of the {count:,} train images would go to minival2014, none is left to train on"
        raise UserError(f"--val-fraction {val_fraction}: {problem}; give less")
    return set(np.random.default_rng(0).permutation(count)[:held].tolist())


def write_split(root: Path, split: str, pictures: list[Picture], bar: tqdm) -> dict[str, int]:
    """Write a split's images, official files and shards; returns how many of each there are."""
    folder = root / "vqav2" / FOLDERS[split]
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture.path, folder / f"COCO_{FOLDERS[split]}_{picture.image_id:012d}.png")
    _write_questions(root / "vqav2", split, pictures)
    captions = write_shards(root / "captions", split, pictures, bar)
    return {"images": len(pictures), "questions": sum(len(picture.pairs) for picture in pictures), "captions": captions}


def _write_questions(folder: Path, split: str, pictures: list[Picture]) -> None:
    """VQAv2's questions and annotations. Ten annotators agree, as easy-VQA has one answer."""
    questions, annotations = [], []
    for picture in pictures:
        for number, (question, answer) in enumerate(picture.pairs):
            ids = {"image_id": picture.image_id, "question_id": picture.image_id * 1000 + number}
            questions.append({**ids, "question": question})
            annotations.append({**ids, **annotation(question, answer)})
    head = {
        "info": {"description": "easy-VQA in VQAv2's format", "version": "1.0", "contributor": "Victor Zhou"},
        "license": {"name": "MIT", "url": "https://github.com/vzhou842/easy-VQA"},
        "data_type": "mscoco",
        "data_subtype": FOLDERS[split],
    }
    write_vqav2(folder, split, head, questions, annotations)


def annotation(question: str, answer: str) -> dict[str, Any]:
    """What an official annotation says beside its ids."""
    return {
        "question_type": question_type(question),
        "answer_type": answer_type(answer),
        "multiple_choice_answer": answer,
        "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": person} for person in range(1, 11)],
    }


def question_type(question: str) -> str:
    """ "is there not a red shape?" -> "is there"."""
    found = [prefix for prefix in QUESTION_TYPES if question.lower().startswith(prefix + " ")]
    return max(found, key=len, default="none of the above")


def write_shards(folder: Path, split: str, pictures: list[Picture], bar: tqdm) -> int:
    """Tars whose bytes depend on the pictures alone; returns the number of captions."""
    folder.mkdir(parents=True, exist_ok=True)

    def samples(part: list[Picture]) -> Iterator[tuple[int, bytes, str]]:
        for picture in part:
            yield picture.image_id, picture.path.read_bytes(), caption(picture)
            bar.update()

    name = split.removesuffix("2014")
    for shard, start in enumerate(range(0, len(pictures), SHARD)):
        write_shard(folder / f"{name}-{shard:06d}.tar", "png", samples(pictures[start : start + SHARD]))
    return len(pictures)


def facts(picture: Picture) -> Iterator[tuple[str, bool]]:
    """What the questions and answers about an image say: ("blue", True), ("circle", False), ...

    Raises: UserError if one has a form that easy-vqa 1.0 has not.
    """
    for question, answer in picture.pairs:
        words = question.rstrip("?").split()
        named = [word for word in words if word in SHAPES + COLORS]
        if answer in SHAPES + COLORS:  # "what color is the circle?" also says that there is one
            yield from ((word, True) for word in (*named, answer))
        elif answer in ("yes", "no") and len(named) == 1:
            yield named[0], (answer == "yes") == ("not" not in words and "no" not in words)
        else:
            raise UserError(
                f"easy-VQA has {question!r} with {answer!r}, which this script does not know; use easy-vqa 1.0"
            )


def caption(picture: Picture) -> str:
    """A caption that follows from the image's own questions: "a drawing of a blue circle", "there is a circle", "a
    shape that is blue".

    Where they give neither shape nor colour it says what is not: "a shape that is not red, not a circle". The wording
    depends on the image id alone.
    """
    said = dict(facts(picture))
    rng = random.Random(f"easy-vqa {picture.image_id}")
    shape = next((word for word in SHAPES if said.get(word)), None)
    color = next((word for word in COLORS if said.get(word)), None)
    if color is None and shape is None:
        absent = [word if word in COLORS else f"a {word}" for word in COLORS + SHAPES if said.get(word) is False]
        phrase = "a shape that is " + ", ".join(f"not {thing}" for thing in absent)
    elif color is None:
        phrase = f"a {shape}"
    else:
        noun = shape or "shape"
        phrase = rng.choice((f"a {color} {noun}", f"a {color} {noun}", f"a {noun} that is {color}"))
    return rng.choice(OPENINGS) + phrase
