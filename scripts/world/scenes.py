"""What is in a scene: one to three objects in a jittered 2x2 grid, a pure function of (seed, split, index)."""

import random
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

SIDE = 48
CATEGORIES = ("star", "heart", "moon", "tree", "house", "fish", "cup", "key")
# Uneven on purpose: POPE's "popular" and "adversarial" negatives need categories that are common, or common together.
FREQUENCY = {"star": 1.3, "heart": 0.9, "moon": 1.0, "tree": 1.3, "house": 1.2, "fish": 1.0, "cup": 0.8, "key": 0.8}
COMPANION = {"star": "moon", "moon": "star", "tree": "house", "house": "tree"} | {
    "fish": "cup", "cup": "fish", "heart": "key", "key": "heart"
}  # fmt: skip
COLORS = {
    "red": (214, 34, 38),
    "green": (44, 158, 56),
    "blue": (40, 84, 220),
    "yellow": (240, 216, 48),
    "purple": (146, 50, 178),
    "orange": (244, 134, 28),
}
SIZES = {"small": (16, 17), "large": (21, 22)}  # pixels across
APART = 12  # pixels between two centres that make one object left of, or above, another: other column, other row
# First image id of each split. The last two are the probes': their pictures are in no other file.
SPLITS = {"train": 1_000_000, "val": 2_000_000, "testdev": 3_000_000, "probe_train": 4_000_000, "probe_val": 5_000_000}
PLURAL = {name: name + "s" for name in CATEGORIES} | {"fish": "fish"}


def keyed(seed: int, split: str, index: int, stream: str) -> random.Random:
    """The generator of one purpose (`stream`) of one scene; text seeds are hashed alike by every Python 3."""
    return random.Random(f"{seed}/{split}/{index}/{stream}")


@dataclass(frozen=True)
class Thing:
    """One object: centre (`x`, `y`) and width in pixels; `color` is a name, `rgb` the paint."""

    id: str
    category: str
    color: str
    size: str
    x: float
    y: float
    pixels: int
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """`things`: those of the left half before those of the right, each from the top."""

    seed: int
    split: str
    index: int
    things: tuple[Thing, ...]

    @property
    def image_id(self) -> int:
        """The image's number in every file: no two scenes of a world share one."""
        return SPLITS[self.split] + self.index

    @cached_property
    def counts(self) -> Counter[str]:
        """How many objects of each category there are."""
        return Counter(thing.category for thing in self.things)

    @cached_property
    def singles(self) -> tuple[Thing, ...]:
        """Objects that "the star" names without doubt."""
        return tuple(thing for thing in self.things if self.counts[thing.category] == 1)

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """Categories that no object has."""
        return tuple(name for name in CATEGORIES if name not in self.counts)

    def rng(self, stream: str) -> random.Random:
        """The generator of one purpose, the same each time."""
        return keyed(self.seed, self.split, self.index, stream)


RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def related(a: Thing, relation: str, b: Thing) -> bool:
    """Whether `a` is left of / right of / above / below `b`."""
    distance = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[relation]
    return distance >= APART


def _categories(rng: random.Random, count: int) -> list[str]:
    repeat = 0.7 if rng.random() < 0.15 else 0.12
    names: list[str] = []
    while len(names) < count:
        if names and rng.random() < repeat:
            names.append(names[0])
            continue
        if names and rng.random() < 0.2 and COMPANION[names[-1]] not in names:
            names.append(COMPANION[names[-1]])
            continue
        left = [name for name in CATEGORIES if name not in names]
        names.append(rng.choices(left, [FREQUENCY[name] for name in left])[0])
    return names


def _traits(rng: random.Random, name: str, color: str, cell: int | None) -> tuple:
    """A thing's fields after its id."""
    size = rng.choice(("small", "large"))
    pixels = rng.choice(SIZES[size])
    half = pixels / 2 + 1
    if cell is None:  # alone: anywhere
        x, y = (rng.uniform(half, SIDE - half) for _ in range(2))
    else:
        spread = 4.0 if size == "small" else 2.0
        middle = (SIDE / 4 + SIDE / 2 * (cell % 2), SIDE / 4 + SIDE / 2 * (cell // 2))
        x, y = (min(max(m + rng.uniform(-spread, spread), half), SIDE - half) for m in middle)
    # One brightness for the whole object and a little per channel: names of colours stay true.
    light = rng.uniform(0.9, 1.08)
    rgb = tuple(min(255, max(0, int(value * light + rng.uniform(-12, 12)))) for value in COLORS[color])
    return (name, color, size, round(x * 2) / 2, round(y * 2) / 2, pixels, rgb)


def make_scene(seed: int, split: str, index: int) -> Scene:
    """The scene with this key. Categories and colours repeat now and then."""
    rng = keyed(seed, split, index, "scene")
    count = rng.choices((1, 2, 3), (0.45, 0.3, 0.25))[0]
    cells = rng.sample(range(4), count) if count > 1 else [None]
    colors: list[str] = []
    for _ in range(count):
        again = colors and rng.random() < 0.25
        colors.append(rng.choice(colors) if again else rng.choice(tuple(COLORS)))
    drawn = [_traits(rng, *parts) for parts in zip(_categories(rng, count), colors, cells)]
    drawn.sort(key=lambda traits: (traits[3] >= SIDE / 2, traits[4]))  # by column, then from the top
    first = (SPLITS[split] + index) * 10
    things = tuple(Thing(str(first + number), *traits) for number, traits in enumerate(drawn))
    return Scene(seed, split, index, things)


def single_object(seed: int, split: str, index: int) -> Scene:
    """One object, anywhere; its category is the next one for each next index. The key is as in `make_scene`."""
    rng = keyed(seed, split, index, "single object")
    category, color = CATEGORIES[index % len(CATEGORIES)], rng.choice(tuple(COLORS))
    thing = Thing(str((SPLITS[split] + index) * 10), *_traits(rng, category, color, None))
    return Scene(seed, split, index, (thing,))
