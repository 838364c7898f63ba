"""Questions and ten human-like answers in the official VQAv2 files."""

import random
from collections import Counter

from world.captions import NUMBERS, article
from world.pairs import where
from world.scenes import CATEGORIES, COLORS, PLURAL, RELATIONS, Scene, related

SUBSETS = {"train": "train2014", "val": "val2014", "testdev": "test-dev2015"}
FOLDERS = {"train": "train2014", "val": "val2014", "testdev": "test2015"}
# From the official list; the longest one that a question starts with counts.
TYPES = ("how many", "is the", "is there a", "is there", "what color is the", "what is the", "what is", "what")
OTHER_TYPE = "none of the above"
LOOKALIKE = {
    "red": ("orange", "pink", "dark red"), "green": ("light green", "teal", "dark green"),
    "blue": ("dark blue", "purple", "navy"), "yellow": ("gold", "orange", "light yellow"),
    "purple": ("violet", "pink", "blue"), "orange": ("yellow", "red", "brown"),
    "star": ("a star", "stars", "5 point star"), "heart": ("a heart", "hearts", "love"),
    "moon": ("a moon", "crescent", "the moon"), "tree": ("a tree", "pine tree", "christmas tree"),
    "house": ("a house", "home", "building"), "fish": ("a fish", "goldfish", "whale"),
    "cup": ("mug", "a cup", "coffee cup"), "key": ("a key", "keys", "lock"),
    "yes": ("no", "yes it is", "no"), "no": ("yes", "yes", "not sure"),
}  # fmt: skip
DISSENT = (0.35, 0.25, 0.2, 0.2)  # share of questions with 0, 1, 2, 3 answers that differ from the others


def image_name(split: str, image_id: int) -> str:
    """The official file name below the data set's folder."""
    return f"{FOLDERS[split]}/COCO_{FOLDERS[split]}_{image_id:012d}.jpg"


def question_type(question: str) -> str:
    """The longest official prefix."""
    text = question.lower()
    return max((name for name in TYPES if text.startswith(name + " ")), key=len, default=OTHER_TYPE)


def answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"


def candidates(scene: Scene, rng: random.Random) -> dict[str, list[tuple[str, str]]]:
    """Family -> (question, true answer)."""
    singles, things = scene.singles, scene.things
    colors = Counter(thing.color for thing in things)
    wrong = {}  # a colour that the thing has not
    for thing in things:
        wrong[thing.id] = rng.choice([color for color in COLORS if color != thing.color])
    alone = [thing for thing in things if colors[thing.color] == 1]
    found = {
        "color": [(f"What color is the {thing.category}?", thing.color) for thing in singles],
        "count": [(f"How many {PLURAL[name]} are there?", str(scene.counts[name])) for name in CATEGORIES],
        "total": [("How many objects are there?", str(len(things)))],
        "there": [(f"Is there {article(name)}?", "yes" if name in scene.counts else "no") for name in CATEGORIES],
        "is": [(f"Is the {thing.category} {thing.color}?", "yes") for thing in singles]
        + [(f"Is the {thing.category} {wrong[thing.id]}?", "no") for thing in singles],
        "shape": [(f"What shape is {thing.color}?", thing.category) for thing in alone],
        "object": [(f"What is the {thing.color} object?", thing.category) for thing in alone]
        + [(f"Name the {thing.color} object.", thing.category) for thing in alone if rng.random() < 0.3],
    }
    beside = []
    for thing in singles:
        for word in RELATIONS:
            there = [other for other in things if related(other, word, thing)]
            if len(there) == 1:
                beside.append((f"What is {where(word)} the {thing.category}?", there[0].category))
    return found | {"where": beside}


QUOTA = {"color": 0.8, "count": 0.4, "total": 0.1, "there": 1, "is": 0.4, "shape": 0.8, "object": 0.8, "where": 0.3}


def choose(scene: Scene, counts: Counter, rng: random.Random) -> list[tuple[str, str]]:
    """About five (question, answer); of each family the answers that were rarer so far (`counts`, changed)."""
    chosen = []
    found = candidates(scene, rng)
    for family, share in QUOTA.items():
        rest = found[family]
        rng.shuffle(rest)
        for _ in range(min(int(share) + (rng.random() < share % 1), len(rest))):
            best = min(rest, key=lambda pair: (counts[family, pair[1]], counts[pair]))
            counts.update(((family, best[1]), best))
            chosen.append(best)
            rest = [pair for pair in rest if pair != best]
    rng.shuffle(chosen)
    return chosen


def ten_answers(answer: str, rng: random.Random) -> list[dict]:
    """Ten people: at least seven say `answer`; the others are near it, as people are."""
    if answer.isdigit():
        number = int(answer)
        near = (str(number + 1), str(number - 1), NUMBERS[number]) if number else ("1", "none", "none")
    else:
        near = LOOKALIKE[answer]
    dissenters = rng.choices(range(4), DISSENT)[0]
    given = [answer] * (10 - dissenters) + [rng.choice(near) for _ in range(dissenters)]
    rng.shuffle(given)
    return [
        {
            "answer": text,
            "answer_confidence": rng.choices(("yes", "maybe", "no"), (90, 8, 2) if text == answer else (50, 40, 10))[0],
            "answer_id": number,
        }
        for number, text in enumerate(given, start=1)
    ]


def records(scene: Scene, counts: Counter) -> tuple[list[dict], list[dict]]:
    """The scene's official question and annotation records."""
    rng = scene.rng("vqav2")
    questions, annotations = [], []
    for number, (text, answer) in enumerate(choose(scene, counts, rng)):
        ids = {"image_id": scene.image_id, "question_id": scene.image_id * 100 + number}
        questions.append({"image_id": ids["image_id"], "question": text, "question_id": ids["question_id"]})
        annotations.append(
            {
                "question_type": question_type(text),
                "multiple_choice_answer": answer,
                "answers": ten_answers(answer, rng),
                "image_id": ids["image_id"],
                "answer_type": answer_type(answer),
                "question_id": ids["question_id"],
            }
        )
    return questions, annotations


def head(split: str) -> dict:
    """What the official files of a split say of the set."""
    return {
        "info": {
            "description": "Procedural world in the format of VQA v2.0", "url": "", "version": "2.0", "year": 2017,
            "contributor": "scripts/make_world.py", "date_created": "2017-04-26 17:07:13",
        },
        "license": {"url": "", "name": ""},
        "data_subtype": SUBSETS[split],
        "data_type": "mscoco",
    }  # fmt: skip
