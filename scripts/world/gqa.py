"""Questions as GQA publishes them: balanced choice, records, answer choices, scene graphs."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from world.draw import bounding_box
from world.pairs import all_questions
from world.questions import KINDS, Question
from world.scenes import RELATIONS, SIDE, Scene, related

# How many balanced questions of each family a scene gets if it has them. The shares of the structural types are
# those of the real testdev within six points: query 54 %, verify 18 %, logical 14 %, choose 9 %, compare 5 %. Every
# object's name is asked, but one colour a scene: any ViT shows colours, shapes must be learnt.
QUOTA = {
    "query color": 1,
    "query color again": 0.3,
    "query name": 3,
    "query size": 0.4,
    "query rel": 0.9,
    "exist": 0.6,
    "exist color": 0.3,
    "verify color": 0.3,
    "verify size": 0.1,
    "verify rel": 0.4,
    "choose color": 0.3,
    "choose name": 0.4,
    "choose size": 0.1,
    "and": 0.9,
    "or": 0.5,
    "compare color": 0.6,
}
EXTRA = 8  # unbalanced questions a scene has besides; what the balanced ones entail comes first


class Balance:
    """Answers given so far in a split, by family and by local group: the rarer answer is asked next."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()

    def rank(self, question: Question) -> tuple[int, int, int]:
        """Smaller is asked sooner."""
        family, local, answer = question.family, question.local_group, question.answer
        return self.counts[family, answer], self.counts[local, answer], self.counts[local]

    def add(self, question: Question) -> None:
        family, local, answer = question.family, question.local_group, question.answer
        self.counts.update(((family, answer), (local, answer), local))


def entails(question: Question, other: Question) -> bool:
    """Whether question and answer settle the other's answer."""
    return any(need <= question.facts for need in other.needs)


def _equivalent(question: Question, other: Question) -> bool:
    """The same thing asked in other words: "Is the star left of the key?", "Is the key right of the star?"."""
    alike = (question.types[0], question.answer) == (other.types[0], other.answer)
    return alike and entails(question, other) and entails(other, question)


def choose_balanced(candidates: list[Question], balance: Balance, rng: random.Random) -> list[Question]:
    """This scene's balanced questions: a share of each family, rarer answers first."""
    families = defaultdict(list)
    for question in candidates:
        families[question.family].append(question)
    chosen = []
    for family, share in QUOTA.items():
        rest = families[family]
        rng.shuffle(rest)
        for _ in range(min(int(share) + (rng.random() < share % 1), len(rest))):
            best = min(rest, key=balance.rank)
            rest.remove(best)
            balance.add(best)
            chosen.append(best)
    rng.shuffle(chosen)
    return chosen


def choose_extra(candidates: list[Question], balanced: list[Question], rng: random.Random) -> list[Question]:
    """Unbalanced questions: entailed ones first, then any."""
    rest = [question for question in candidates if question not in balanced]
    rng.shuffle(rest)
    rest.sort(key=lambda other: not any(entails(question, other) for question in balanced))
    return rest[:EXTRA]


def annotate(text: str, marks: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Token slices ("3" or "2:4") of the marked phrases in `text.split()`, each with its object id."""
    tokens = [token.strip(".,?") for token in text.split()]
    found = {}
    for phrase, thing in marks:
        words = phrase.split()
        for start in range(len(tokens) - len(words) + 1):
            if tokens[start : start + len(words)] == words:
                found[str(start) if len(words) == 1 else f"{start}:{start + len(words)}"] = thing
                break
    return found


def _step(operation: str, argument: str, dependencies: tuple[int, ...]) -> str:
    return f"{operation}: {argument}" + (f" [{', '.join(map(str, dependencies))}]" if dependencies else "")


def record(question: Question, image_id: str, balanced: bool) -> dict:
    """The official record, without the fields that name other questions."""
    structural, semantic, detailed = question.types
    keys = ("operation", "argument", "dependencies")
    asked = [mark for mark in question.marks if mark[0] != question.answer]  # the answer's object is not pointed at
    return {
        "semantic": [dict(zip(keys, (name, argument, list(steps)))) for name, argument, steps in question.program],
        "question": question.text,
        "imageId": image_id,
        "isBalanced": balanced,
        "groups": {"global": question.global_group, "local": question.local_group},
        "answer": question.answer,
        "semanticStr": "->".join(_step(*step) for step in question.program),
        "annotations": {
            "answer": annotate(question.answer, question.marks),
            "question": annotate(question.text, asked),
            "fullAnswer": annotate(question.full_answer, question.marks),
        },
        "types": {"detailed": detailed, "semantic": semantic, "structural": structural},
        "fullAnswer": question.full_answer,
    }


def records(scene: Scene, balance: Balance) -> dict[str, dict]:
    """Question id -> official record: the scene's balanced questions, then its other ones (`balance` changes)."""
    rng = scene.rng("gqa choice")
    candidates = all_questions(scene)
    balanced = choose_balanced(candidates, balance, rng)
    asked = balanced + choose_extra(candidates, balanced, rng)
    ids = [f"{scene.image_id}{number:02d}" for number in range(len(asked))]
    found = {}
    for id, question in zip(ids, asked):
        others = [(other_id, other) for other_id, other in zip(ids, asked) if other is not question]
        found[id] = record(question, str(scene.image_id), question in balanced)
        found[id]["entailed"] = [other_id for other_id, other in others if entails(question, other)]
        found[id]["equivalent"] = [id] + [other_id for other_id, other in others if _equivalent(question, other)]
    return found


def choices(questions: dict[str, dict]) -> dict[str, dict[str, list[str]]]:
    """Question id -> valid answers (of the right kind) and plausible ones (given somewhere to this local group)."""
    seen = defaultdict(set)
    for asked in questions.values():
        seen[asked["groups"]["local"]].add(asked["answer"])
    found = {}
    for id, asked in questions.items():
        structural, group = asked["types"]["structural"], asked["groups"]
        if structural == "query":
            found[id] = {"valid": list(KINDS[group["global"]]), "plausible": sorted(seen[group["local"]])}
        else:
            valid = asked["semantic"][-1]["argument"].split("|") if structural == "choose" else ["yes", "no"]
            found[id] = {"valid": valid, "plausible": valid}
    return found


def scene_graph(scene: Scene) -> dict:
    """The official scene graph of one image: boxes in pixels, colour and size as attributes, every relation."""
    objects: dict[str, dict[str, Any]] = {}
    for thing in scene.things:
        relations = []
        for other in scene.things:
            for relation, phrase in RELATIONS.items():
                if related(thing, relation, other):
                    relations.append({"object": other.id, "name": phrase})
        x, y, w, h = bounding_box(thing)
        objects[thing.id] = {
            "name": thing.category,
            "x": x,
            "y": y,
            "w": w,
            "h": h,
            "attributes": [thing.color, thing.size],
            "relations": relations,
        }
    return {"width": SIDE, "height": SIDE, "objects": objects}
