"""Questions as GQA publishes them: balanced choice, records, answer choices, scene graphs."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from world.draw import bounding_box
from world.questions import Question, all_questions
from world.scenes import CATEGORIES, COLORS, RELATIONS, SIDE, SIZES, Scene, related

# How many balanced questions of each family a scene gets, where it has them; about a ninth are about relations.
QUOTA = {
    "query color": 2, "query name": 2, "query size": 1, "exist": 2, "exist color": 1, "verify color": 1,
    "verify size": 0.4, "choose color": 0.7, "choose name": 0.5, "choose size": 0.4, "logic": 1, "compare": 0.6,
    "query rel": 0.7, "verify rel": 0.8,
}  # fmt: skip
EXTRA = 8  # unbalanced questions a scene has besides: first those that balanced ones entail


class Balance:
    """Counts of answers so far, per family and per local group: the rarer answer is asked next."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.subjects: Counter = Counter()

    def add(self, question: Question) -> None:
        for group in (question.family, question.groups[1]):
            self.counts[group, question.answer] += 1
        self.subjects[question.groups[1]] += 1

    def surplus(self, question: Question) -> tuple[int, int, int]:
        family = self.counts[question.family, question.answer]
        return family, self.counts[question.groups[1], question.answer], self.subjects[question.groups[1]]


def _entails(question: Question, other: Question) -> bool:
    """Whether question and answer settle the other's answer."""
    return any(need <= question.facts for need in other.needs)


def _alike(question: Question, other: Question) -> bool:
    return (question.types[0], question.answer) == (other.types[0], other.answer)


def choose_balanced(candidates: list[Question], balance: Balance, rng: random.Random) -> list[Question]:
    """This scene's balanced questions: its share of each family, rarer answers first."""
    families = defaultdict(list)
    for question in candidates:
        families[question.family].append(question)
    chosen = []
    for family, share in QUOTA.items():
        count = int(share) + (rng.random() < share % 1)
        rest = families[family]
        rng.shuffle(rest)
        for _ in range(min(count, len(rest))):
            best = min(rest, key=balance.surplus)
            rest.remove(best)
            balance.add(best)
            chosen.append(best)
    rng.shuffle(chosen)
    return chosen


def choose_extra(candidates: list[Question], balanced: list[Question], rng: random.Random) -> list[Question]:
    """Unbalanced questions: entailed ones first."""
    rest = [question for question in candidates if question not in balanced]
    rng.shuffle(rest)
    rest.sort(key=lambda other: not any(_entails(question, other) for question in balanced))
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


def records(scene: Scene, balance: Balance) -> dict[str, dict]:
    """Question id -> official record, balanced and other questions of one scene together."""
    rng = scene.rng("gqa choice")
    candidates = list({question.text: question for question in all_questions(scene)}.values())
    balanced = choose_balanced(list(candidates), balance, rng)
    asked = balanced + choose_extra(candidates, balanced, rng)
    ids = [f"{scene.image_id}{number:02d}" for number in range(len(asked))]
    follows = [[_entails(one, other) for other in asked] for one in asked]
    found = {}
    for i, (id, question) in enumerate(zip(ids, asked)):
        structural, semantic, detailed = question.types
        steps = [dict(zip(("operation", "dependencies", "argument"), (o, list(d), a))) for o, a, d in question.program]
        same = [
            ids[j]
            for j in range(len(ids))
            if j == i or (_alike(question, asked[j]) and follows[i][j] and follows[j][i])
        ]
        found[id] = {
            "semantic": steps,
            "entailed": [ids[j] for j in range(len(ids)) if j != i and follows[i][j]],
            "equivalent": same,
            "question": question.text,
            "imageId": str(scene.image_id),
            "isBalanced": i < len(balanced),
            "groups": {"global": question.groups[0], "local": question.groups[1]},
            "answer": question.answer,
            "semanticStr": "->".join(_step(*step) for step in question.program),
            "annotations": {
                "answer": annotate(question.answer, question.marks),
                "question": annotate(question.text, question.marks),
                "fullAnswer": annotate(question.full_answer, question.marks),
            },
            "types": {"detailed": detailed, "semantic": semantic, "structural": structural},
            "fullAnswer": question.full_answer,
        }
    return found


def choices(questions: dict[str, dict]) -> dict[str, dict[str, list[str]]]:
    """Question id -> valid answers (of the right kind) and plausible ones (seen for this very group)."""
    seen = defaultdict(set)
    for record in questions.values():
        seen[record["groups"]["local"]].add(record["answer"])
    kinds = {"color": list(COLORS), "size": list(SIZES), "object": list(CATEGORIES)}
    found = {}
    for id, record in questions.items():
        if record["types"]["structural"] == "query":
            valid = kinds[record["groups"]["global"]]
            plausible = sorted(seen[record["groups"]["local"]])
        else:
            structural = record["types"]["structural"]
            valid = record["semantic"][-1]["argument"].split("|") if structural == "choose" else ["yes", "no"]
            plausible = valid
        found[id] = {"valid": valid, "plausible": plausible}
    return found


def scene_graph(scene: Scene) -> dict:
    """The official scene graph of one image: boxes in pixels, colour and size as attributes, every relation."""
    objects = {}
    for thing in scene.things:
        relations = [
            {"object": other.id, "name": phrase}
            for other in scene.things
            for word, phrase in RELATIONS.items()
            if related(thing, word, other)
        ]
        box = dict(zip("xywh", bounding_box(thing)))
        objects[thing.id] = {
            "name": thing.category, **box, "attributes": [thing.color, thing.size], "relations": relations,
        }  # fmt: skip
    return {"width": SIDE, "height": SIDE, "objects": objects}
