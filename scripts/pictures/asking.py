"""Captions and questions of a picture, all of them from its name, kind and words.

A wrong thing, for a no, shares no word but small ones with what is true of the picture: "dog" is not asked of a "dog
face".
"""

import random
import re
from collections import Counter
from collections.abc import Sequence

from world.captions import article

from pictures.sources import Picture, plain

MODES = ("random", "popular", "adversarial")
SMALL_WORDS = {"a", "an", "and", "in", "of", "on", "or", "the", "with"}  # that things may share
OPENINGS = ("", "", "", "a picture of ", "an image of ", "this is ")


def caption(picture: Picture, key: str) -> str:
    """Its name, sometimes with words that are true of it; which depends on the key alone."""
    rng = random.Random(f"caption/{key}")
    words = [word for word in picture.words if word not in picture.name]
    rng.shuffle(words)
    more = words[: rng.choice((0, 0, 1, 2))]
    return rng.choice(OPENINGS) + ", ".join([picture.name, *more])


class Things:
    """What can be asked of the pictures of one split: names by kind, kinds and groups, the most frequent ones first."""

    def __init__(self, pictures: Sequence[Picture]):
        self.counts = (
            Counter(picture.name for picture in pictures),
            Counter(picture.kind for picture in pictures),
            Counter(picture.group for picture in pictures),
        )
        self.names, self.kinds, self.groups = (_by_frequency(counts) for counts in self.counts)
        self.of_kind: dict[str, list[str]] = {}
        self.kinds_of: dict[str, list[str]] = {}
        for picture in pictures:
            _once(self.of_kind.setdefault(picture.kind, []), picture.name)
            _once(self.kinds_of.setdefault(picture.group, []), picture.kind)

    def level(self, number: int) -> list[str]:
        return (self.names, self.kinds, self.groups)[number]

    def near(self, picture: Picture, number: int) -> list[str]:
        """What is easily taken for the picture's: names of its kind, kinds of its group, the groups."""
        return (self.of_kind[picture.kind], self.kinds_of[picture.group], self.groups)[number]


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda value: (-counts[value], value))


def _once(values: list[str], value: str) -> None:
    if value not in values:
        values.append(value)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - SMALL_WORDS


def wrong(picture: Picture, things: Things, number: int, mode: str, rng: random.Random) -> str | None:
    """A name (number 0), kind (1) or group (2) that is not the picture's; None if there is none.

    mode: as POPE's. random: any; popular: the most frequent, one of them if several are (of one vendor's pictures every
    name is there once, and the first of the alphabet would be asked of all); adversarial: of the same kind or group, if
    there is one.
    """
    own = (picture.name, picture.kind, picture.group)
    true = {word for text in (*own, *picture.words) for word in _words(text)}

    def fits(value: str) -> bool:
        return value not in own and not _words(value) & true

    free = [value for value in things.level(number) if fits(value)]
    near = [value for value in things.near(picture, number) if fits(value)]
    if not free:
        return None
    if mode == "popular":
        counts = things.counts[number]
        return rng.choice([value for value in free if counts[value] == counts[free[0]]])
    return rng.choice(near if mode == "adversarial" and near else free)


def questions(picture: Picture, things: Things, key: str) -> list[tuple[str, str]]:
    """(question, answer), eight of a picture: what it is, of what kind, and yes and no in equal parts."""
    rng = random.Random(f"questions/{key}")
    asked = [
        (rng.choice(("What is this?", "What is in the picture?")), picture.name),
        (rng.choice(("What kind of thing is this?", "What kind of thing is in the picture?")), picture.kind),
    ]
    forms = ((0, "Is it {}?", "adversarial"), (0, "Is there {} in the picture?", "random"), (1, "Is it {}?", "random"))
    for number, form, mode in forms:
        other = wrong(picture, things, number, mode, rng)
        if other:
            asked.append((form.format(article(plain((picture.name, picture.kind)[number]))), "yes"))
            asked.append((form.format(article(plain(other))), "no"))
    return asked


def pope_lines(chosen: Sequence[tuple[str, Picture]], things: Things, mode: str) -> list[dict]:
    """POPE's six questions an image, yes and no in turn: its name, its kind and its group, each beside a wrong one.

    chosen: image file name and picture.
    """
    lines: list[dict] = []
    for image, picture in chosen:
        rng = random.Random(f"pope/{mode}/{image}")
        for number, true in enumerate((picture.name, picture.kind, picture.group)):
            other = wrong(picture, things, number, mode, rng)
            for name, label in ((true, "yes"), (other, "no")) if other else ():
                text = f"Is there {article(plain(name))} in the image?"
                lines.append({"question_id": 1 + len(lines), "image": image, "text": text, "label": label})
    return lines
