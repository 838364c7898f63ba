"""The order of samples: a pure function of (seed, epoch, position) with O(1) access to any position.

Reading a tar at random is slow and shuffling 100 million samples in memory is not possible, so the shuffle has levels:

    shards -> runs of at most 10,240 samples; the runs are permuted                            (per epoch)
    runs   -> groups of ~164,000 samples, whose runs are read side by side:
              their blocks of 128 samples are interleaved at random, each run staying in order  (per group)
    blocks -> windows of ~8,000 samples, permuted                                              (per window)

Every shard is read nearly front to back, every sample comes exactly once an epoch, and a data set of up to one window
is shuffled uniformly. Nothing here knows of ranks, workers or batches: they take slices of this one sequence.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np

# Sizes of the levels, in samples.
RUN_SAMPLES = 10_240
GROUP_SAMPLES = 16 * RUN_SAMPLES
BLOCK_SAMPLES = 128
WINDOW_SAMPLES = 64 * BLOCK_SAMPLES


class Stream(IntEnum):
    """What a stream of random numbers is for: the last entry of its key, so that no two streams have the same key.

    The numbers stay as they are: with others a run would read other samples.
    """

    RUNS = 0  # (seed, epoch): the order of an epoch's runs
    BLOCKS = 1  # (seed, epoch, group): how the blocks of a group's runs are interleaved
    SAMPLES = 2  # (seed, epoch, start of the window): the order of a window's samples
    FILL = 3  # data/batches.py, (seed, position, attempt): what takes the place of a bad sample
    AUGMENT = 4  # data/batches.py, (seed, position): how an image is cropped
    MIX = 5  # data/mixing.py, (seed, round): the order of the sources in 10,000 positions
    SOURCES = 6  # data/mixing.py, (seed): the seeds of the sources' own orders
    CAPTION = 7  # data/batches.py, (seed, position): which of an image's captions is read


def permutation(n: int, *key: int) -> np.ndarray:
    """int64[n], a permutation keyed by non-negative integers.

    Built on raw PCG64 output and a stable sort: numpy guarantees that stream for ever, but not Generator.permutation.
    """
    return np.argsort(np.random.PCG64(list(key)).random_raw(n), kind="stable")


class Order:
    """The sequence of sample indices over all epochs, for shards of `counts` samples laid end to end."""

    def __init__(self, counts: Sequence[int] | np.ndarray, seed: int):
        self.seed = seed
        self.total = int(np.sum(counts, dtype=np.int64))
        self.run_starts, self.run_sizes = _runs(np.asarray(counts, np.int64))
        self._epochs, self._groups, self._windows = Recent(2), Recent(2), Recent(4)

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64[stop - start]: the samples at these positions of the run; p is place p % total of epoch p // total."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            epoch, place = divmod(start, self.total)
            first, window = self._window(epoch, place)
            piece = window[place - first : place - first + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First level: permute the runs, then cut them into groups.

        -> the runs' numbers in their order and the group of each, int64[runs]; the groups' ends in the epoch.
        """
        if epoch not in self._epochs:
            runs = permutation(len(self.run_sizes), self.seed, epoch, Stream.RUNS)
            self._epochs[epoch] = runs, *_cut(self.run_sizes[runs], GROUP_SAMPLES)
        return self._epochs[epoch]

    def _group(self, epoch: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Second level: interleave the blocks of a group's runs, then cut them into windows.

        -> the blocks' first samples and sizes in their order and the window of each, int64[blocks]; the windows' ends
        in the group.
        """
        if (epoch, group) not in self._groups:
            all_runs, group_of_run, _ = self._epoch(epoch)
            runs = all_runs[group_of_run == group]
            blocks_of_run = -(-self.run_sizes[runs] // BLOCK_SAMPLES)
            # A turn a block names its run: [0, 0, 0, 1, 1] for runs of 3 and 2 blocks, shuffled to [1, 0, 0, 1, 0].
            turns = np.repeat(np.arange(len(runs)), blocks_of_run)
            turns = turns[permutation(len(turns), self.seed, epoch, group, Stream.BLOCKS)]
            # At its turn a run gives its next block: [0, 0, 1, 1, 2]. The stable sort lists the turns run by run.
            ordinal = np.empty_like(turns)
            ordinal[np.argsort(turns, kind="stable")] = _counters(blocks_of_run)
            starts = self.run_starts[runs][turns] + ordinal * BLOCK_SAMPLES
            sizes = np.minimum(BLOCK_SAMPLES, self.run_sizes[runs][turns] - ordinal * BLOCK_SAMPLES)
            self._groups[epoch, group] = starts, sizes, *_cut(sizes, WINDOW_SAMPLES)
        return self._groups[epoch, group]

    def _window(self, epoch: int, place: int) -> tuple[int, np.ndarray]:
        """Third level: the window that covers `place` of an epoch, as the place of its start and its samples.

        The samples, int64[about 8,000], are those of the window's blocks, permuted.
        """
        _, _, group_ends = self._epoch(epoch)
        group, group_start = _part_at(group_ends, place)
        starts, sizes, window_of_block, window_ends = self._group(epoch, group)
        window, window_start = _part_at(window_ends, place - group_start)
        first = group_start + window_start
        if (epoch, first) not in self._windows:
            inside = window_of_block == window
            starts, sizes = starts[inside], sizes[inside]
            samples = np.repeat(starts, sizes) + _counters(sizes)
            self._windows[epoch, first] = samples[permutation(len(samples), self.seed, epoch, first, Stream.SAMPLES)]
        return first, self._windows[epoch, first]


def _runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut shards of `counts` samples into nearly equal runs: the start and size of each, int64[runs].

    A shard of n samples in p runs has its edges at n * 0 // p, n * 1 // p, ..., n * p // p.
    """
    counts = counts[counts > 0]
    parts = -(-counts // RUN_SAMPLES)
    # One entry a run: which one of its shard it is, and of its shard the size, the number of runs and the start.
    ordinal = _counters(parts)
    shard_size, shard_parts = np.repeat(counts, parts), np.repeat(parts, parts)
    shard_start = np.repeat(np.cumsum(counts) - counts, parts)
    left, right = shard_size * ordinal // shard_parts, shard_size * (ordinal + 1) // shard_parts
    return shard_start + left, right - left


def _counters(sizes: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]"""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _cut(sizes: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a row of pieces into parts of about `target` samples: the part of each piece, and the end of each part."""
    ends = np.cumsum(sizes)
    parts = max(1, round(int(ends[-1]) / target))
    part = (ends - 1) * parts // ends[-1]  # of the piece's last sample
    last_piece = np.searchsorted(part, np.arange(parts), side="right") - 1
    return part, ends[last_piece]


def _part_at(ends: np.ndarray, place: int) -> tuple[int, int]:
    """The number and the start of the part that covers `place`, of parts that end at `ends`."""
    part = int(np.searchsorted(ends, place, side="right"))
    return part, int(ends[part - 1]) if part else 0


class Recent(dict[Any, Any]):
    """A dict that keeps its newest entries."""

    def __init__(self, keep: int):
        self.keep = keep

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self.keep:
            del self[next(iter(self))]
