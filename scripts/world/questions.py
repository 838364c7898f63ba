"""GQA's questions about one scene: templates, programs, answers, and what each answer logically settles.

`facts` is what a question and its answer assert together; `needs` lists alternative sets of facts from which the answer
follows, given that the question makes sense. One question entails another when its facts hold one of those sets.
Facts: ("exists" | "absent", category), ("has" | "lacks", category, value), ("same" | "differ", a, b),
("rel" | "norel", a, relation, b).
"""

import random
from dataclasses import dataclass

from world.captions import article
from world.scenes import CATEGORIES, COLORS, SIZES, Scene, Thing

Fact = tuple[str, ...]
Facts = frozenset[Fact]
Step = tuple[str, str, tuple[int, ...]]  # operation, argument, indices of the steps it works on

# Family -> GQA's structural, semantic and detailed type. "... again" is the same question in other words.
TYPES = {
    "query color": ("query", "attr", "colorQuery"),
    "query color again": ("query", "attr", "colorQuery"),
    "query size": ("query", "attr", "sizeQuery"),
    "query name": ("query", "cat", "categoryAttr"),
    "query rel": ("query", "rel", "relS"),
    "exist": ("verify", "obj", "exist"),
    "exist color": ("verify", "attr", "existAttr"),
    "verify color": ("verify", "attr", "verifyAttr"),
    "verify size": ("verify", "attr", "verifyAttr"),
    "verify rel": ("verify", "rel", "relVerify"),
    "choose color": ("choose", "attr", "chooseAttr"),
    "choose size": ("choose", "attr", "chooseAttr"),
    "choose name": ("choose", "cat", "categoryThisChoose"),
    "and": ("logical", "obj", "existAnd"),
    "or": ("logical", "obj", "existOr"),
    "compare color": ("compare", "attr", "twoSame"),
}
KINDS = {"color": tuple(COLORS), "size": tuple(SIZES), "object": CATEGORIES}  # global group -> its answers


@dataclass(frozen=True, eq=False)
class Question:
    """One question and all that its record needs; `marks` are (phrase, object id), for the annotations."""

    family: str
    text: str
    answer: str
    full_answer: str
    program: tuple[Step, ...]
    local_group: str
    marks: tuple[tuple[str, str], ...]
    facts: Facts
    needs: tuple[Facts, ...]

    @property
    def types(self) -> tuple[str, str, str]:
        """GQA's structural, semantic and detailed type."""
        return TYPES[self.family]

    @property
    def global_group(self) -> str | None:
        """What kind of word answers, None for yes and no."""
        if self.types[0] not in ("query", "choose"):
            return None
        kind = self.family.split()[1]
        return kind if kind in KINDS else "object"


def yes_no(truth: bool) -> str:
    """The answer "yes" or "no"."""
    return "yes" if truth else "no"


def first_of(scene: Scene, category: str) -> Thing | None:
    """The first thing of a category, if the scene has one."""
    return next((thing for thing in scene.things if thing.category == category), None)


def select(category: str, thing: Thing | None) -> Step:
    """A program's step that picks a category, and the thing if there is one."""
    return ("select", f"{category} ({thing.id if thing else '-'})", ())


def in_some_order(rng: random.Random, a: str, b: str) -> tuple[str, str]:
    """The two as they are, or swapped, with equal chances."""
    return (a, b) if rng.random() < 0.5 else (b, a)


def _another(rng: random.Random, true: str, values: tuple[str, ...]) -> str:
    return rng.choice([value for value in values if value != true])


def attributes(scene: Scene, rng: random.Random) -> list[Question]:
    """ "What color is the star?", "Is the star red?" (yes and no), "Is the star red or blue?"; size alike."""
    found = []
    for thing in scene.singles:
        found += _attribute(thing, "color", thing.color, rng)
        found += _attribute(thing, "size", thing.size, rng)
    return found


def _attribute(thing: Thing, kind: str, true: str, rng: random.Random) -> list[Question]:
    name, mark, full = thing.category, ((thing.category, thing.id),), f"The {thing.category} is {true}."
    others = {("lacks", name, value) for value in KINDS[kind] if value != true}
    facts = frozenset({("exists", name), ("has", name, true), *others})
    needs = (frozenset({("has", name, true)}),)
    start, group = select(name, thing), f"10q-{name}_{kind}"

    program = (start, ("query", kind, (0,)))
    text = f"What {kind} is the {name}?"
    found = [Question(f"query {kind}", text, true, full, program, group, mark, facts, needs)]
    if kind == "color":
        text = f"Which color is the {name}?"
        found.append(Question("query color again", text, true, full, program, group, mark, facts, needs))

    wrong = _another(rng, true, KINDS[kind])
    a, b = in_some_order(rng, true, wrong)
    program, group = (start, (f"choose {kind}", f"{a}|{b}", (0,))), f"10c-{name}_{kind}"
    text = f"Is the {name} {a} or {b}?"
    found.append(Question(f"choose {kind}", text, true, full, program, group, mark, facts, needs))

    program, group = (start, (f"verify {kind}", true, (0,))), f"06-{name}_{true}"
    text, full = f"Is the {name} {true}?", f"Yes, the {name} is {true}."
    found.append(Question(f"verify {kind}", text, "yes", full, program, group, mark, facts, needs))

    program, group = (start, (f"verify {kind}", wrong, (0,))), f"06-{name}_{wrong}"
    text, full = f"Is the {name} {wrong}?", f"No, the {name} is {true}."
    # "Not red" leaves five colours open, "not small" leaves only large.
    denied = frozenset({("exists", name), ("lacks", name, wrong)}) if kind == "color" else facts
    needs = (*needs, frozenset({("lacks", name, wrong)}))
    found.append(Question(f"verify {kind}", text, "no", full, program, group, mark, denied, needs))
    return found


def names(scene: Scene, rng: random.Random) -> list[Question]:
    """ "What is the red object?", "Is the red object a star or a key?", if just one object is red."""
    found = []
    for thing in scene.things:
        color, name = thing.color, thing.category
        if sum(other.color == color for other in scene.things) > 1:
            continue
        others = {("lacks", other, color) for other in CATEGORIES if other != name}
        facts = frozenset({("exists", name), ("has", name, color), *others})
        needs = (frozenset({("has", name, color)}),)
        marks = ((f"{color} object", thing.id), (name, thing.id))
        start = (select("object", thing), ("filter color", color, (0,)))
        full = f"The {color} object is {article(name)}."

        text, program = f"What is the {color} object?", (*start, ("query", "name", (1,)))
        group = f"04q-object_{color}"
        found.append(Question("query name", text, name, full, program, group, marks, facts, needs))

        a, b = in_some_order(rng, name, _another(rng, name, CATEGORIES))
        text, group = f"Is the {color} object {article(a)} or {article(b)}?", f"04c-object_{color}"
        program = (*start, ("choose name", f"{a}|{b}", (1,)))
        found.append(Question("choose name", text, name, full, program, group, marks, facts, needs))
    return found


def existence(scene: Scene, rng: random.Random) -> list[Question]:
    """ "Is there a star?", "Is there a red star?", yes and no."""
    found = []
    for name in CATEGORIES:
        found.append(_exists(scene, name))
        found += [_exists_colored(scene, name, color) for color in _hues(scene, name, rng)]
    return found


def _hues(scene: Scene, name: str, rng: random.Random) -> list[str]:
    """Colours to ask for: those the category has and one it lacks; of an absent category one that is in the scene."""
    has = {thing.color for thing in scene.things if thing.category == name}
    if not has:
        return [rng.choice(scene.things).color]
    return [*sorted(has), rng.choice([color for color in COLORS if color not in has])]


def _exists(scene: Scene, name: str) -> Question:
    thing = first_of(scene, name)
    program = (select(name, thing), ("exist", "?", (0,)))
    full = f"Yes, there is {article(name)}." if thing else f"No, there is no {name}."
    facts = frozenset({("exists" if thing else "absent", name)})
    marks = ((name, thing.id),) if thing else ()
    text, group = f"Is there {article(name)}?", f"05-{name}_exist"
    return Question("exist", text, yes_no(bool(thing)), full, program, group, marks, facts, (facts,))


def _exists_colored(scene: Scene, name: str, color: str) -> Question:
    group = [thing for thing in scene.things if thing.category == name]
    thing = next((thing for thing in group if thing.color == color), None)
    program = (select(name, group[0] if group else None), ("filter color", color, (0,)), ("exist", "?", (1,)))
    phrase = f"{color} {name}"
    text = f"Is there {article(phrase)}?"
    if thing:
        full, facts = f"Yes, there is {article(phrase)}.", frozenset({("has", name, color), ("exists", name)})
        needs: tuple[Facts, ...] = (frozenset({("has", name, color)}),)
    else:
        full, facts = f"No, there is no {phrase}.", frozenset({("lacks", name, color)})
        needs = (facts, frozenset({("absent", name)}))
    marks = ((phrase, thing.id),) if thing else ()
    local = f"05-{name}_{color}"
    return Question("exist color", text, yes_no(bool(thing)), full, program, local, marks, facts, needs)
