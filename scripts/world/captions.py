"""Captions: the loose ones people would write, and the one full true description of a scene."""

import random
from itertools import product

from world.scenes import PLURAL, Scene, Thing, related

NUMBERS = ("no", "one", "two", "three")
BETWEEN = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


def article(phrase: str) -> str:
    """`phrase` with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def listing(phrases: list[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _attributes(rng: random.Random, thing: Thing) -> tuple[str, str]:
    return (thing.size if rng.random() < 0.3 else "", thing.color if rng.random() < 0.5 else "")


def _single(rng: random.Random, thing: Thing) -> str:
    return article(" ".join(filter(None, (*_attributes(rng, thing), thing.category))))


def _noun_phrases(rng: random.Random, things: list[Thing]) -> list[str]:
    """One phrase an object; objects of one category mostly share one, with the attributes they share."""
    phrases = []
    for category in dict.fromkeys(thing.category for thing in things):
        group = [thing for thing in things if thing.category == category]
        if len(group) == 1 or rng.random() < 0.3:
            phrases += [_single(rng, thing) for thing in group]
            continue
        size, color = _attributes(rng, group[0])
        common = []  # the attributes that hold for all of them
        if all(thing.size == size for thing in group):
            common.append(size)
        if all(thing.color == color for thing in group):
            common.append(color)
        phrases.append(" ".join((NUMBERS[len(group)], *common, PLURAL[category])))
    return phrases


def _with_relation(rng: random.Random, things: list[Thing]) -> str | None:
    """ "a star left of a red key, a moon and ..."; None if no two objects stand in a relation."""
    pairs = [(a, b, name) for a, b, name in product(things, things, BETWEEN) if related(a, name, b)]
    if not pairs:
        return None
    a, b, name = rng.choice(pairs)
    rest = _noun_phrases(rng, [thing for thing in things if thing not in (a, b)])
    return listing([f"{_single(rng, a)} {rng.choice(BETWEEN[name])} {_single(rng, b)}", *rest])


def caption(scene: Scene) -> str:
    """A caption that always names every shape, and colours, sizes and a relation only sometimes."""
    rng = scene.rng("caption")
    things = list(scene.things)
    rng.shuffle(things)
    text = _with_relation(rng, things) if rng.random() < 0.1 else None
    if text is None:
        phrases = _noun_phrases(rng, things)
        beside = rng.choice((" next to ", " beside ", " with "))
        text = beside.join(phrases) if len(phrases) == 2 and rng.random() < 0.3 else listing(phrases)
    return text


def full_caption(scene: Scene) -> str:
    """What a careful person would write: every object, the left half first, with size, colour and shape."""
    return listing([article(f"{thing.size} {thing.color} {thing.category}") for thing in scene.things])
