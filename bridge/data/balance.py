"""Rows of a step -> equal shares for every process, and micro-batches that are filled.

A micro-batch is as wide as its longest row, so it takes rows x width tokens. Sorted by length, neighbours are alike and
little is padding. For several processes, rows are cut into as few micro-batches as the budget allows, all of about the
same size, and each process gets as many of them as the others. It then cuts its own rows, whose lengths it knows
exactly, where that is cheapest: another micro-batch costs as much time as some tokens. An example of shares, with a
budget of 1,000 tokens and two processes:

    rows, sorted   480 470   460 440   320 310 300   300 300 300
    micro-batches  480 480 | 464 464 | 320 320 320 | 304 304 304     with padding 960, 928, 960 and 912 tokens
    processes      0         0         1             1               1,888 and 1,872 tokens
"""

from collections.abc import Sequence

import numpy as np

from bridge.data.mixture import Mixture
from bridge.data.packing import rounded
from bridge.data.schedule import ScheduledRow, Step, text_tokens

# Tokens whose time another micro-batch costs. On a GPU: about 3,100 launches of 7 microseconds, in which an H100 at 40
# % of its peak computes 2,000 tokens of a 1.5B model.
OVERHEAD = {"cuda": 2048, "cpu": 32}
WIDTH = 16  # micro-batches are as wide as a multiple of this: GPU kernels copy or split other widths


def cut_micro_batches(lengths: Sequence[int], budget: int, multiple_of: int = 1) -> list[list[int]]:
    """Indices of rows, longest first, in micro-batches of `budget` tokens at most with their padding, or of one row.

    There are as few as fit, and a multiple of `multiple_of` if there are rows enough; the largest is as small as it can
    be.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    widths = [rounded(lengths[index], WIDTH) for index in order]
    fewest = len(_filled(widths, budget))
    wanted = rounded(fewest, multiple_of)
    low, high = max(widths, default=0), max(budget, max(widths, default=0))
    while low < high:  # the least budget for which `wanted` are enough
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(widths, middle)) <= wanted else (middle + 1, high)
    return [[order[place] for place in group] for group in _filled(widths, low)]


def cheapest(lengths: Sequence[int], budget: int, overhead: int) -> list[list[int]]:
    """Indices of rows, longest first, in the micro-batches that cost least together: tokens with padding, and
    `overhead` tokens for each. A micro-batch has `budget` tokens at most, or is one row.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    widths = [rounded(lengths[index], WIDTH) for index in order]
    costs, starts = [0], [0]  # of the first rows, at best; where their last micro-batch starts
    for end in range(1, len(order) + 1):
        best = (costs[end - 1] + widths[end - 1] + overhead, end - 1)
        for start in range(end - 2, -1, -1):
            tokens = (end - start) * widths[start]
            if tokens > budget:
                break  # and more so with the longer rows before it
            best = min(best, (costs[start] + tokens + overhead, start))
        costs.append(best[0])
        starts.append(best[1])
    groups, end = [], len(order)
    while end:
        groups.append(order[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def _filled(widths: Sequence[int], budget: int) -> list[range]:
    """Rows, widest first, in order into micro-batches of `budget` tokens at most with their padding, or of one row."""
    groups, start = [], 0
    for place, _ in enumerate(widths):
        if place > start and (place - start + 1) * widths[start] > budget:
            groups.append(range(start, place))
            start = place
    return [*groups, range(start, len(widths))] if widths else []


def padded_tokens(lengths: Sequence[int], group: Sequence[int]) -> int:
    """Tokens of a micro-batch with its padding."""
    return len(group) * rounded(max(lengths[index] for index in group), WIDTH)


def dealt(lengths: Sequence[int], processes: int, budget: int) -> list[list[int]]:
    """Indices of rows for each process: as many micro-batches, of about as many tokens together."""
    groups = sorted(cut_micro_batches(lengths, budget, processes), key=lambda group: -padded_tokens(lengths, group))
    each = -(-len(groups) // processes)
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads, counts = [0] * processes, [0] * processes
    for group in groups:
        process = min((p for p in range(processes) if counts[p] < each), key=lambda p: loads[p])
        shares[process] += group
        loads[process] += padded_tokens(lengths, group)
        counts[process] += 1
    return [sorted(share) for share in shares]


class RowLengths:
    """About how many tokens a scheduled row takes, told without tokenising it: so every process knows of all rows."""

    def __init__(self, mixture: Mixture, image_slots: int, scale: float = 1.0):
        """scale: tokens of a question to what `text_tokens` guesses, as long as nothing is learnt."""
        self._mixture, self._slots = mixture, image_slots
        self._tokens = text_tokens(mixture)
        self._scales = np.full(len(mixture.ends), scale)

    def learn(self, rows: Sequence[ScheduledRow], taken: Sequence[int]) -> None:
        """Scale the guess of each data set by rows whose tokens are known."""
        sets = np.array([self._set(row) for row in rows])
        guesses = np.array([self._tokens[list(row.examples)].sum() for row in rows])
        texts = np.array(taken) - [self._images(row) for row in rows]
        for number in set(sets.tolist()):
            here = sets == number
            self._scales[number] = texts[here].sum() / guesses[here].sum()

    def __call__(self, row: ScheduledRow) -> int:
        text = self._scales[self._set(row)] * self._tokens[list(row.examples)].sum()
        return max(1, self._images(row) + round(text))

    def _set(self, row: ScheduledRow) -> int:
        return int(np.searchsorted(self._mixture.ends, row.examples[0], side="right"))

    def _images(self, row: ScheduledRow) -> int:
        return self._slots * len(self._mixture.examples[row.examples[0]].images)


def share_of(step: Step, lengths: RowLengths, rank: int, processes: int, budget: int) -> Step:
    """This process's rows of a step."""
    if processes == 1:
        return step
    return tuple(step[index] for index in dealt([lengths(row) for row in step], processes, budget)[rank])
