"""Several sources in given shares: `--data a=0.7,b=0.3`.

Which source a position draws from is a pure function of (seed, position), as the order within a source is:

    positions -> rounds of 10,000, in which each source has its exact number of places (7,000 and 3,000), spread evenly
    a source's places, counted over all rounds -> positions of its own `Order`: every sample once in each of its epochs
"""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pretrain.data.captions import Caption
from pretrain.data.naming import brief
from pretrain.data.order import Order, Recent, Stream
from pretrain.data.pairs import Captions
from vlm.errors import UserError

ROUND = 10_000  # positions: a share is a multiple of 1 / ROUND
_PART = re.compile(r"(.+)=\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One part of a mixture."""

    path: str  # what --data would name alone
    label: str  # a short name, unlike the others'
    share: float  # of all samples drawn
    data: Captions


class MixedCaptions(Captions):
    """The samples of all sources, numbered source after source; shards are named `label/shard`."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self.places = places([source.share for source in sources])
        self.counts = np.concatenate([source.data.counts for source in sources])
        self.reads_ahead = any(source.data.reads_ahead for source in sources)
        self._starts = np.cumsum([0, *(len(source.data) for source in sources)])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sources' fingerprints, in their order, and shares."""
        parts = [source.data.fingerprint for source in self.sources]
        return hashlib.sha256(json.dumps([parts, self.places]).encode()).hexdigest()

    def order(self, seed: int) -> "MixedOrder":
        return MixedOrder([source.data.counts for source in self.sources], self.places, seed)

    def parts(self) -> list[tuple[str, Captions]]:
        return [(source.label, source.data) for source in self.sources]

    def part(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def alternatives(self, number: int) -> range:
        """The samples of the same source: a bad one does not change the shares."""
        part = self.part(number)
        return range(int(self._starts[part]), int(self._starts[part + 1]))

    def prefetch(self, *steps: Iterable[int], images: bool = True) -> None:
        steps = tuple(list(step) for step in steps)
        for part, source in enumerate(self.sources):
            first, stop = int(self._starts[part]), int(self._starts[part + 1])
            own = ([number - first for number in step if first <= number < stop] for step in steps)
            source.data.prefetch(*own, images=images)

    def read(self, number: int) -> tuple[bytes | None, Caption]:
        data, own = self._own(number)
        return data.read(own)

    def caption(self, number: int) -> Caption:
        data, own = self._own(number)
        return data.caption(own)

    def identify(self, number: int) -> tuple[str, int]:
        data, own = self._own(number)
        shard, index = data.identify(own)
        return f"{self.sources[self.part(number)].label}/{shard}", index

    def key(self, number: int) -> str | None:
        data, own = self._own(number)
        return data.key(own)

    def unusable(self) -> Iterator[dict]:
        for source in self.sources:
            for record in source.data.unusable():
                yield {**record, "shard": f"{source.label}/{record['shard']}"}

    def reasons(self) -> Counter:
        return sum((source.data.reasons() for source in self.sources), Counter())

    def first_captions(self, count: int) -> list[str]:
        """The first captions of each source, in its share of `count`."""
        return [text for source in self.sources for text in source.data.first_captions(round(count * source.share))]

    def describe(self, samples: int) -> list[str]:
        """A line a source: its share, its pairs, what is left out, and the epochs that `samples` of the run draw."""
        lines = []
        for source, places in zip(self.sources, self.places):
            pairs, left_out = len(source.data), source.data.reasons()
            drawn = samples * places / ROUND
            words = ", ".join(f"{count:,} x {reason}" for reason, count in left_out.most_common())
            line = f"{places / ROUND:.2%} {source.label}: {drawn:,.0f} samples, {drawn / pairs:,.2f} epochs of"
            line += f" {pairs:,} pairs in {source.path}"
            lines.append(line + (f" (left out: {words})" if words else ""))
        return lines

    def _own(self, number: int) -> tuple[Captions, int]:
        part = self.part(number)
        return self.sources[part].data, number - int(self._starts[part])


class MixedOrder:
    """The sequence of sample indices over all rounds, like `Order`'s."""

    def __init__(self, counts: Sequence[np.ndarray], places: Sequence[int], seed: int):
        """counts: int64[shards] of each source. places: of each source in a round of 10,000."""
        self.seed, self.places = seed, np.array(places)
        keys = np.random.PCG64([seed, Stream.SOURCES]).random_raw(len(counts)).tolist()
        self.orders = [Order(own, key >> 1) for own, key in zip(counts, keys)]
        self.starts = np.cumsum([0, *(order.total for order in self.orders[:-1])])
        self._rounds = Recent(2)

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64[stop - start]: the samples at these positions of the run."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            number, place = divmod(start, ROUND)
            until = min(ROUND, place + stop - start)
            pieces.append(self._piece(number, place, until))
            start += until - place
        return np.concatenate(pieces)

    def _piece(self, number: int, place: int, until: int) -> np.ndarray:
        """The samples at places `place` to `until` of a round."""
        sources = self._round(number)
        piece = np.empty(until - place, np.int64)
        for source, (order, places) in enumerate(zip(self.orders, self.places.tolist())):
            mine = sources[place:until] == source
            # How many places the source had before: those of all rounds before, and of this one.
            before = number * places + int(np.count_nonzero(sources[:place] == source))
            piece[mine] = self.starts[source] + order.indices(before, before + int(np.count_nonzero(mine)))
        return piece

    def _round(self, number: int) -> np.ndarray:
        """int64[10,000]: the source of each place of a round.

        The i-th of a source's n places lies at random in the i-th of n equal stretches of the round, so that every
        batch has nearly its share of each source.
        """
        if number not in self._rounds:
            sources = np.repeat(np.arange(len(self.places)), self.places)
            ordinal = np.arange(ROUND) - np.repeat(np.cumsum(self.places) - self.places, self.places)
            within = np.random.PCG64([self.seed, number, Stream.MIX]).random_raw(ROUND) / 2.0**64
            at = (ordinal + within) / np.repeat(self.places, self.places)
            self._rounds[number] = sources[np.argsort(at, kind="stable")]
        return self._rounds[number]


def places(shares: Sequence[float]) -> list[int]:
    """How many of a round's 10,000 places each source has: [0.7, 0.3] -> [7000, 3000]. They always sum to 10,000.

    Raises: UserError if a share is less than one place.
    """
    exact = [share / math.fsum(shares) * ROUND for share in shares]
    whole = [int(value) for value in exact]
    # The largest remainders get what rounding down has left.
    behind = sorted(range(len(exact)), key=lambda source: whole[source] - exact[source])
    for source in behind[: ROUND - sum(whole)]:
        whole[source] += 1
    if not all(whole):
        smallest = min(shares) / math.fsum(shares)
        raise UserError(f"a source has a share of {smallest:.2g}: give each at least 1 / {ROUND:,} of the weights")
    return whole


def parse_mixture(text: str) -> list[tuple[str, float]]:
    """`a=7,b=3` -> [("a", 0.7), ("b", 0.3)]; [] if it is a single source.

    Parts end in =NUMBER and are joined by commas. So other commas and = belong to the names, and so do all within
    braces: `cc-{00,01}.tar=1,https://host/x.tar?v=2=1` are two sources. `\\,` is a comma of a name in any case. A
    single part has no weight, and what exists as a whole is a path.
    Raises: UserError if some parts have a weight and others not, or a weight is not above 0.
    """
    if os.path.exists(text):  # not Path's, which raises for what is too long to be one
        return []
    parts = _split(text)
    matches = [_PART.fullmatch(part) for part in parts]
    if len(parts) < 2:
        return []
    if not all(matches):
        if any(matches) or all(_is_there(part) for part in parts):
            missing = next(part for part, match in zip(parts, matches) if not match)
            wanted = "several sources need a weight each, as in a=0.7,b=0.3 (a comma in a name is written \\,)"
            if not any(matches):
                wanted += "; if a shell made them of one pattern, put it in quotes, as --data '/d/*.tar'"
            raise UserError(f"--data {brief(text)}: {missing} has no weight; {wanted}")
        return []
    found = [(match[1].replace("\\,", ","), _weight(match[2], text)) for match in matches if match]
    names = [name for name, _ in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--data names {twice[0]} twice: give it one weight")
    total = math.fsum(weight for _, weight in found)
    return [(name, weight / total) for name, weight in found]


def _split(text: str) -> list[str]:
    """Cut at commas outside braces: behind =NUMBER, or, if there is none of these, at all."""
    commas, depth, escaped = [], 0, False
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and depth <= 0 and not escaped:
            commas.append(at)
        escaped = character == "\\"
    weighted = [at for at in commas if re.search(r"=\s*[0-9.]+(?:[eE][+-]?[0-9]+)?\s*$", text[:at])]
    edges = [-1, *(weighted or commas), len(text)]
    return [text[left + 1 : right].strip() for left, right in pairwise(edges)]


def _is_there(part: str) -> bool:
    return "://" in part or os.path.exists(part)


def _weight(digits: str, text: str) -> float:
    try:
        weight = float(digits)
    except ValueError:
        weight = math.nan
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(f"--data {brief(text)}: the weight {digits} is not a number above 0")
    return weight


def labels(paths: Sequence[str]) -> list[str]:
    """A short name for each source, the last plain part of its path: /d/cc12m/{00..99}.tar -> cc12m."""
    found: list[str] = []
    for path in paths:
        steps = [step for step in re.split(r"[/\\]+", path.partition("?")[0].removesuffix("/")) if step]
        plain = [step for step in steps if not re.search(r"[*?\[\]{}:]", step)]
        name = label = plain[-1] if plain else path
        number = len(found) + 1
        while label in found:  # another source may be called NAME-3 by itself
            label = f"{name}-{number}"
            number += 1
        found.append(label)
    return found
