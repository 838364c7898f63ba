"""GQA's questions about a scene: every template, with program, answer, and what each answer logically settles.

`facts` is what question and answer together assert, `needs` the alternatives of facts from which the answer follows
(given that the question makes sense): one question entails another when its facts hold one of the other's needs.
A fact is ("has", category, value), ("lacks", category, value), ("exists", category), ("absent", category),
("same", a, b), ("differ", a, b), ("rel", a, relation, b) or ("norel", a, relation, b).
"""

import random
from dataclasses import dataclass
from itertools import combinations, permutations

from world.captions import article
from world.scenes import CATEGORIES, COLORS, OPPOSITE, RELATIONS, SIZES, Scene, Thing, related

Fact = tuple[str, ...]
Step = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Question:
    """One question in GQA's terms. `family` is the quota it counts against, `marks`: words (see `gqa.annotate`)."""

    family: str
    types: tuple[str, str, str]  # structural, semantic, detailed
    text: str
    answer: str
    full_answer: str
    program: tuple[Step, ...]
    groups: tuple[str | None, str]  # global, local
    marks: tuple[tuple[str, str], ...]  # (phrase, object id)
    facts: frozenset[Fact]
    needs: tuple[frozenset[Fact], ...]


def _values(value: str) -> tuple[str, ...]:
    return tuple(COLORS) if value in COLORS else tuple(SIZES)


def _is(category: str, value: str) -> frozenset[Fact]:
    """The one object of this category has this colour or size, so none of the others."""
    others = (("lacks", category, other) for other in _values(value) if other != value)
    return frozenset({("exists", category), ("has", category, value), *others})


def _needs_is(category: str, value: str) -> tuple[frozenset[Fact], ...]:
    return (frozenset({("has", category, value)}),)


def _select(thing: Thing) -> Step:
    return ("select", f"{thing.category} ({thing.id})", ())


def _other(rng: random.Random, true: str, names: tuple[str, ...]) -> str:
    return rng.choice([name for name in names if name != true])


def _pair(rng: random.Random, a: str, b: str) -> tuple[str, str]:
    return (a, b) if rng.random() < 0.5 else (b, a)


def attributes(scene: Scene, rng: random.Random) -> list[Question]:
    """Colour and size of an object that its category names alone: query, verify (yes and no), choose."""
    found = []
    for thing in scene.singles:
        name, mark = thing.category, ((thing.category, thing.id),)
        for kind, true in (("color", thing.color), ("size", thing.size)):
            values = _values(true)
            facts, needs = _is(name, true), _needs_is(name, true)
            semantic = ("query", "attr", f"{kind}Query")
            group = (kind, f"10q-{name}_{kind}")
            program = (_select(thing), ("query", kind, (0,)))
            full = f"The {name} is {true}."
            for what in ("What", "Which"):
                text = f"{what} {kind} is the {name}?"
                family = f"query {kind}" if what == "What" else "again"
                found.append(Question(family, semantic, text, true, full, program, group, mark, facts, needs))
            wrong = _other(rng, true, values)
            a, b = _pair(rng, true, wrong)
            program = (_select(thing), (f"choose {kind}", f"{a}|{b}", (0,)))
            group = (kind, f"10c-{name}_{kind}")
            types = ("choose", "attr", "chooseAttr")
            text = f"Is the {name} {a} or {b}?"
            found.append(Question(f"choose {kind}", types, text, true, full, program, group, mark, facts, needs))
            for asked in (true, wrong):
                yes = asked == true
                program = (_select(thing), (f"verify {kind}", asked, (0,)))
                text, types = f"Is the {name} {asked}?", ("verify", "attr", "verifyAttr")
                full_answer = f"Yes, the {name} is {asked}." if yes else f"No, the {name} is {true}."
                group, no_facts = (None, f"06-{name}_{asked}"), frozenset({("exists", name), ("lacks", name, asked)})
                if kind == "size":  # not small is large
                    no_facts = facts
                no_needs = (*needs, frozenset({("lacks", name, asked)}))
                found.append(
                    Question(
                        f"verify {kind}", types, text, "yes" if yes else "no", full_answer, program, group, mark,
                        facts if yes else no_facts, needs if yes else no_needs,
                    )
                )  # fmt: skip
    return found


def names(scene: Scene, rng: random.Random) -> list[Question]:
    """The category of the only object of a colour: "What is the red object?", "Is the red object a star or a key?"."""
    found = []
    for thing in scene.things:
        color, name = thing.color, thing.category
        if sum(other.color == color for other in scene.things) > 1:
            continue
        others = {("lacks", other, color) for other in CATEGORIES if other != name}
        facts, needs = frozenset({("exists", name), ("has", name, color), *others}), _needs_is(name, color)
        mark = ((f"{color} object", thing.id), (name, thing.id))
        select = (("select", f"object ({thing.id})", ()), ("filter color", color, (0,)))
        full = f"The {color} object is {article(name)}."
        program = (*select, ("query", "name", (1,)))
        types, group = ("query", "cat", "categoryAttr"), ("object", f"04-object_{color}")
        found.append(
            Question(
                "query name", types, f"What is the {color} object?", name, full, program, group, mark, facts, needs
            )
        )
        a, b = _pair(rng, name, _other(rng, name, CATEGORIES))
        program = (*select, ("choose name", f"{a}|{b}", (1,)))
        types, group = ("choose", "cat", "categoryThisChoose"), ("object", f"04c-object_{color}")
        text = f"Is the {color} object {article(a)} or {article(b)}?"
        found.append(Question("choose name", types, text, name, full, program, group, mark, facts, needs))
    return found


def existence(scene: Scene, rng: random.Random) -> list[Question]:
    """ "Is there a star?", "Is there a red star?", yes and no."""
    found = []
    for name in CATEGORIES:
        things = [thing for thing in scene.things if thing.category == name]
        here = bool(things)
        fact = frozenset({("exists" if here else "absent", name)})
        mark = ((name, things[0].id),) if here else ()
        program = (("select", f"{name} ({things[0].id if here else '-'})", ()), ("exist", "?", (0,)))
        full = f"Yes, there is {article(name)}." if here else f"No, there is no {name}."
        text, answer = f"Is there {article(name)}?", "yes" if here else "no"
        found.append(
            Question(
                "exist", ("verify", "obj", "exist"), text, answer, full, program, (None, f"05-{name}_exist"), mark,
                fact, (fact,),
            )
        )  # fmt: skip
        colors = {thing.color for thing in things}
        wrong = rng.choice([color for color in COLORS if color not in colors])
        for color in (*sorted(colors), wrong):
            holder = next((thing for thing in things if thing.color == color), None)
            select = ("select", f"{name} ({things[0].id if here else '-'})", ())
            program = (select, ("filter color", color, (0,)), ("exist", "?", (1,)))
            text, phrase = f"Is there {article(f'{color} {name}')}?", f"{color} {name}"
            full = f"Yes, there is {article(phrase)}." if holder else f"No, there is no {phrase}."
            fact = frozenset({("has", name, color), ("exists", name)} if holder else {("lacks", name, color)})
            needs = (
                (frozenset({("has", name, color)}),)
                if holder
                else (frozenset({("lacks", name, color)}), frozenset({("absent", name)}))
            )
            found.append(
                Question(
                    "exist color", ("verify", "attr", "existAttr"), text, "yes" if holder else "no", full, program,
                    (None, f"05-{name}_{color}"), ((phrase, holder.id),) if holder else (), fact, needs,
                )
            )  # fmt: skip
    return found


def logic(scene: Scene, rng: random.Random) -> list[Question]:
    """ "Are there both a star and a moon?", "Is there a star or a moon?"."""
    found = []
    pairs = [rng.sample(CATEGORIES, 2) for _ in range(3)]
    pairs += [rng.sample(sorted(scene.counts), 2) for _ in range(2) if len(scene.counts) > 1]
    pairs += [rng.sample(scene.absent, 2)]
    for a, b in pairs:
        ids = {name: next((thing.id for thing in scene.things if thing.category == name), "-") for name in (a, b)}
        marks = tuple((name, id) for name, id in ids.items() if id != "-")
        steps = [("select", f"{a} ({ids[a]})", ()), ("exist", "?", (0,))]
        steps += [("select", f"{b} ({ids[b]})", ()), ("exist", "?", (2,))]
        here = [ids[name] != "-" for name in (a, b)]
        given = [(("exists" if there else "absent"), name) for there, name in zip(here, (a, b))]
        alone = tuple(frozenset({fact}) for fact in given)
        both, either = all(here), any(here)
        full = f"Yes, there are {article(a)} and {article(b)}." if both else "No, they are not both there."
        found.append(
            Question(
                "logic", ("logical", "obj", "existAnd"), f"Are there both {article(a)} and {article(b)}?",
                "yes" if both else "no", full, (*steps, ("and", "", (1, 3))), (None, f"08-{a}_and_{b}"), marks,
                frozenset(given if both else ()),
                (frozenset(given),) if both else tuple(need for need, there in zip(alone, here) if not there),
            )
        )  # fmt: skip
        full = f"Yes, there is {article(a if here[0] else b)}." if either else f"No, there is no {a} and no {b}."
        found.append(
            Question(
                "logic", ("logical", "obj", "existOr"), f"Is there {article(a)} or {article(b)}?",
                "yes" if either else "no", full, (*steps, ("or", "", (1, 3))), (None, f"08-{a}_or_{b}"), marks,
                frozenset(() if either else given),
                tuple(need for need, there in zip(alone, here) if there) if either else (frozenset(given),),
            )
        )  # fmt: skip
    return found


def comparison(scene: Scene, rng: random.Random) -> list[Question]:
    """ "Do the star and the moon have the same color?" """
    found = []
    for first, second in combinations(scene.singles, 2):
        a, b = (first, second) if rng.random() < 0.5 else (second, first)
        same = a.color == b.color
        key = ("same" if same else "differ", *sorted((a.category, b.category)))
        text = f"Do the {a.category} and the {b.category} have the same color?"
        full = f"{'Yes' if same else 'No'}, the {a.category} is {a.color} and the {b.category} is {b.color}."
        facts = {key, ("exists", a.category), ("exists", b.category)}
        found.append(
            Question(
                "compare", ("compare", "attr", "twoSame"), text, "yes" if same else "no", full,
                (_select(a), _select(b), ("same color", "", (0, 1))), (None, f"12-{a.category}_{b.category}_same"),
                ((a.category, a.id), (b.category, b.id)), frozenset(facts), (frozenset({key}),),
            )
        )  # fmt: skip
    return found


def relations(scene: Scene, rng: random.Random) -> list[Question]:
    """ "What is left of the star?", "Is the moon left of the star?", where the words name one object each."""
    found = []
    for b in scene.singles:
        for word, phrase in RELATIONS.items():
            there = [thing for thing in scene.things if related(thing, word, b)]
            if len(there) != 1:
                continue
            a = there[0]
            facts = _stands(a.category, word, b.category)
            program = (_select(b), ("relate", f"_,{phrase},s ({a.id})", (0,)), ("query", "name", (1,)))
            place = word + " of" if word in ("left", "right") else word
            full = f"The {a.category} is {place} the {b.category}."
            found.append(
                Question(
                    "query rel", ("query", "rel", "relS"), f"What is {place} the {b.category}?", a.category, full,
                    program, ("object", f"14-{b.category}_{word},s"), ((b.category, b.id), (a.category, a.id)), facts,
                    (frozenset({("rel", a.category, word, b.category)}),),
                )
            )  # fmt: skip
    for a, b in permutations(scene.singles, 2):
        for word in RELATIONS:
            if related(a, word, b) or related(b, word, a):
                found.append(_verify_relation(a, word, b))
    return found


def _stands(a: str, word: str, b: str) -> frozenset[Fact]:
    """What "a is `word` of b" settles, each of the two named without doubt."""
    back = OPPOSITE[word]
    true = {("rel", a, word, b), ("rel", b, back, a)}
    false = {("norel", a, back, b), ("norel", b, word, a)}
    return frozenset(true | false | {("exists", a), ("exists", b)})


def _verify_relation(a: Thing, word: str, b: Thing) -> Question:
    yes = related(a, word, b)
    place = word + " of" if word in ("left", "right") else word
    facts = _stands(a.category, word if yes else OPPOSITE[word], b.category)
    full = f"{'Yes' if yes else 'No'}, the {a.category} is {'' if yes else 'not '}{place} the {b.category}."
    program = (_select(a), ("verify rel", f"{b.category},{RELATIONS[word]},o ({b.id})", (0,)))
    return Question(
        "verify rel", ("verify", "rel", "relVerify"), f"Is the {a.category} {place} the {b.category}?",
        "yes" if yes else "no", full, program, (None, f"13-{a.category}_{word}_{b.category}"),
        ((a.category, a.id), (b.category, b.id)), facts,
        (frozenset({("rel" if yes else "norel", a.category, word, b.category)}),),
    )  # fmt: skip


def all_questions(scene: Scene) -> list[Question]:
    """Every question the templates can ask about this scene."""
    rng = scene.rng("gqa")
    return [
        question
        for template in (attributes, names, existence, logic, comparison, relations)
        for question in template(scene, rng)
    ]
