"""GQA's questions about two objects or categories: and, or, same colour, relations. See `world.questions`."""

import random
from itertools import combinations, permutations, product

from world.captions import article
from world.questions import Question, attributes, existence, first_of, names, select, yes_no
from world.scenes import CATEGORIES, OPPOSITE, RELATIONS, Scene, Thing, related


def where(relation: str) -> str:
    """The relation as a question says it."""
    return relation + " of" if relation in ("left", "right") else relation


def logic(scene: Scene, rng: random.Random) -> list[Question]:
    """ "Is there a star or a moon?", over present, mixed and absent pairs; "Are there both ...?" if there could be."""
    pairs = [rng.sample(CATEGORIES, 2) for _ in range(3)]
    pairs += [rng.sample(sorted(scene.counts), 2) for _ in range(2) if len(scene.counts) > 1]
    pairs += [rng.sample(scene.absent, 2)]
    templates = (_both, _either) if len(scene.counts) > 1 else (_either,)
    return [template(scene, a, b) for (a, b), template in product(pairs, templates)]


def _evidence(scene: Scene, a: str, b: str) -> tuple[list, tuple, list]:
    """Which of the two are there, the steps that find out, and the annotations' marks."""
    first_a, first_b = first_of(scene, a), first_of(scene, b)
    steps = (select(a, first_a), ("exist", "?", (0,)), select(b, first_b), ("exist", "?", (2,)))
    marks = [(thing.category, thing.id) for thing in (first_a, first_b) if thing]
    return [first_a is not None, first_b is not None], steps, marks


def _both(scene: Scene, a: str, b: str) -> Question:
    here, steps, marks = _evidence(scene, a, b)
    if all(here):
        full = f"Yes, there are both {article(a)} and {article(b)}."
        facts = frozenset({("exists", a), ("exists", b)})
        needs = (facts,)
    else:
        full = f"No, there are not both {article(a)} and {article(b)}."
        facts = frozenset()
        needs = tuple(frozenset({("absent", name)}) for name, there in zip((a, b), here) if not there)
    text, program = f"Are there both {article(a)} and {article(b)}?", (*steps, ("and", "", (1, 3)))
    group = f"08-{a}_and_{b}"
    return Question("and", text, yes_no(all(here)), full, program, group, tuple(marks), facts, needs)


def _either(scene: Scene, a: str, b: str) -> Question:
    here, steps, marks = _evidence(scene, a, b)
    if any(here):
        full = f"Yes, there is {article(a if here[0] else b)}."
        facts = frozenset()
        needs = tuple(frozenset({("exists", name)}) for name, there in zip((a, b), here) if there)
    else:
        full = f"No, there is no {a} and no {b}."
        facts = frozenset({("absent", a), ("absent", b)})
        needs = (facts,)
    text, program = f"Is there {article(a)} or {article(b)}?", (*steps, ("or", "", (1, 3)))
    group = f"08-{a}_or_{b}"
    return Question("or", text, yes_no(any(here)), full, program, group, tuple(marks), facts, needs)


def comparison(scene: Scene, rng: random.Random) -> list[Question]:
    """ "Do the star and the moon have the same color?" """
    found = []
    for pair in combinations(scene.singles, 2):
        a, b = rng.sample(pair, 2)
        same = a.color == b.color
        fact = ("same" if same else "differ", *sorted((a.category, b.category)))
        facts = frozenset({fact, ("exists", a.category), ("exists", b.category)})
        program = (select(a.category, a), select(b.category, b), ("same color", "", (0, 1)))
        text = f"Do the {a.category} and the {b.category} have the same color?"
        full = f"{yes_no(same).capitalize()}, the {a.category} is {a.color} and the {b.category} is {b.color}."
        marks = ((a.category, a.id), (b.category, b.id))
        group = f"12-{a.category}_{b.category}_color"
        needs = (frozenset({fact}),)
        found.append(Question("compare color", text, yes_no(same), full, program, group, marks, facts, needs))
    return found


def relations(scene: Scene, rng: random.Random) -> list[Question]:
    """ "What is left of the star?" if just one object is, "Is the moon left of the star?" if the two are apart."""
    found = []
    for b in scene.singles:
        for relation in RELATIONS:
            there = [thing for thing in scene.things if related(thing, relation, b)]
            if len(there) == 1:
                found.append(_query_relation(there[0], relation, b))
    for a, b in permutations(scene.singles, 2):
        for relation in RELATIONS:
            if related(a, relation, b) or related(b, relation, a):
                found.append(_verify_relation(a, relation, b))
    return found


def _settled(a: str, relation: str, b: str) -> frozenset:
    """What "the a is left of the b" settles: also that b is right of a, and neither is the other way round."""
    back = OPPOSITE[relation]
    true, false = {("rel", a, relation, b), ("rel", b, back, a)}, {("norel", a, back, b), ("norel", b, relation, a)}
    return frozenset(true | false | {("exists", a), ("exists", b)})


def _query_relation(a: Thing, relation: str, b: Thing) -> Question:
    program = (select(b.category, b), ("relate", f"_,{RELATIONS[relation]},s ({a.id})", (0,)), ("query", "name", (1,)))
    text = f"What is {where(relation)} the {b.category}?"
    full = f"The {a.category} is {where(relation)} the {b.category}."
    marks = ((b.category, b.id), (a.category, a.id))
    facts = _settled(a.category, relation, b.category)
    needs = (frozenset({("rel", a.category, relation, b.category)}),)
    group = f"14-{b.category}_{relation},s"
    return Question("query rel", text, a.category, full, program, group, marks, facts, needs)


def _verify_relation(a: Thing, relation: str, b: Thing) -> Question:
    true = related(a, relation, b)
    text = f"Is the {a.category} {where(relation)} the {b.category}?"
    full = f"{'Yes' if true else 'No'}, the {a.category} is {'' if true else 'not '}{where(relation)} the {b.category}."
    program = (select(a.category, a), ("verify rel", f"{b.category},{RELATIONS[relation]},o ({b.id})", (0,)))
    facts = _settled(a.category, relation if true else OPPOSITE[relation], b.category)
    needs = (frozenset({("rel" if true else "norel", a.category, relation, b.category)}),)
    marks = ((a.category, a.id), (b.category, b.id))
    group = f"13-{a.category}_{relation}_{b.category}"
    return Question("verify rel", text, yes_no(true), full, program, group, marks, facts, needs)


def all_questions(scene: Scene) -> list[Question]:
    """Every question that the templates can ask about this scene, no text twice."""
    rng = scene.rng("gqa")
    templates = (attributes, names, existence, logic, comparison, relations)
    found: dict[str, Question] = {}
    for template in templates:
        for question in template(scene, rng):
            found[question.text] = question
    return list(found.values())
