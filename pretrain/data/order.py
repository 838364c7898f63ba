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

import numpy as np

RUN = 10_240
GROUP = 16 * RUN
BLOCK = 128
WINDOW = 64 * BLOCK

# What a stream of random numbers is for; the last entry of its key.
RUNS, BLOCKS, SAMPLES = range(3)


def permutation(n: int, *key: int) -> np.ndarray:
    """int64[n], a permutation keyed by non-negative integers.

    Built on raw PCG64 output and a stable sort: numpy guarantees that stream for ever, but not Generator.permutation.
    """
    return np.argsort(np.random.PCG64(list(key)).random_raw(n), kind="stable")


class Order:
    """The sequence of sample indices over all epochs, for shards of `counts` samples laid end to end."""

    def __init__(self, counts: Sequence[int], seed: int):
        self.seed = seed
        self.total = int(np.sum(counts, dtype=np.int64))
        self.run_starts, self.run_sizes = _runs(np.asarray(counts, np.int64))
        self._epochs, self._groups, self._windows = _Recent(2), _Recent(2), _Recent(4)

    def at(self, position: int) -> int:
        """The sample at `position` of the whole run: epoch position // total, place position % total."""
        return int(self.indices(position, position + 1)[0])

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64[stop - start]: the samples at positions start..stop of the whole run, across epochs if need be."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            epoch, place = divmod(start, self.total)
            first, window = self._window(epoch, place)
            piece = window[place - first : place - first + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Permuted runs, the group of each, and the place in the epoch at which each group ends."""
        if epoch not in self._epochs:
            runs = permutation(len(self.run_sizes), self.seed, epoch, RUNS)
            group, ends = _cut(self.run_sizes[runs], GROUP)
            self._epochs[epoch] = runs, group, ends
        return self._epochs[epoch]

    def _group(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Interleaved blocks of a group: their starts, sizes and windows, and the place where each window ends."""
        if (epoch, number) not in self._groups:
            runs, group, _ = self._epoch(epoch)
            runs = runs[group == number]
            blocks = -(-self.run_sizes[runs] // BLOCK)
            labels = np.repeat(np.arange(len(runs)), blocks)
            labels = labels[permutation(len(labels), self.seed, epoch, number, BLOCKS)]
            ordinal = np.empty_like(labels)  # 0, 1, 2 ... along each run
            ordinal[np.argsort(labels, kind="stable")] = _counters(blocks)
            starts = self.run_starts[runs][labels] + ordinal * BLOCK
            sizes = np.minimum(BLOCK, self.run_sizes[runs][labels] - ordinal * BLOCK)
            self._groups[epoch, number] = starts, sizes, *_cut(sizes, WINDOW)
        return self._groups[epoch, number]

    def _window(self, epoch: int, place: int) -> tuple[int, np.ndarray]:
        """The window that covers `place` of an epoch: the place at which it starts, and its shuffled samples."""
        ends = self._epoch(epoch)[2]
        group = int(np.searchsorted(ends, place, side="right"))
        group_start = int(ends[group - 1]) if group else 0
        starts, sizes, windows, window_ends = self._group(epoch, group)
        number = int(np.searchsorted(window_ends, place - group_start, side="right"))
        first = group_start + (int(window_ends[number - 1]) if number else 0)
        if (epoch, first) not in self._windows:
            starts, sizes = starts[windows == number], sizes[windows == number]
            samples = np.repeat(starts, sizes) + _counters(sizes)
            self._windows[epoch, first] = samples[permutation(len(samples), self.seed, epoch, first, SAMPLES)]
        return first, self._windows[epoch, first]


def _runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shards cut into nearly equal runs of at most RUN samples: the start and size of each."""
    counts = counts[counts > 0]
    parts = -(-counts // RUN)
    ordinal, size, part = _counters(parts), np.repeat(counts, parts), np.repeat(parts, parts)
    edges = size * ordinal // part, size * (ordinal + 1) // part
    return np.repeat(np.cumsum(counts) - counts, parts) + edges[0], edges[1] - edges[0]


def _counters(sizes: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]"""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _cut(sizes: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a row of pieces into parts of about `target` samples: the part of each piece, and the end of each part."""
    ends = np.cumsum(sizes)
    parts = max(1, round(int(ends[-1]) / target))
    part = (ends - 1) * parts // ends[-1]
    return part, ends[np.searchsorted(part, np.arange(parts), side="right") - 1]


class _Recent(dict):
    """A dict that keeps its newest entries."""

    def __init__(self, keep: int):
        super().__init__()
        self.keep = keep

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        while len(self) > self.keep:
            del self[next(iter(self))]
