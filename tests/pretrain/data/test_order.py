"""pretrain.data.order: literal order, every sample once an epoch, any position without replay, shards read in order."""

import numpy as np
import pytest

from pretrain.data.order import BLOCK_SAMPLES, Order, permutation


def test_literal_permutation():
    assert permutation(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_literal_order():
    order = Order([3, 0, 5], seed=3)
    assert order.indices(0, 8).tolist() == [4, 3, 5, 6, 1, 2, 0, 7]
    assert Order([300, 200], seed=7).indices(0, 8).tolist() == [325, 390, 197, 115, 489, 486, 252, 44]


COUNTS = [[1], [3, 0, 5], [128] * 3, [50] * 400, [300_000], [10_241, 7, 99_999, 123]]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_every_sample_once_an_epoch(counts):
    order, total = Order(counts, seed=5), sum(counts)
    first, second = order.indices(0, total), order.indices(total, 2 * total)
    for epoch in (first, second):
        assert np.array_equal(np.sort(epoch), np.arange(total))
    assert total < 8 or not np.array_equal(first, second)
    assert total < 8 or not np.array_equal(first, Order(counts, seed=6).indices(0, total))


def test_any_slice_equals_the_whole_sequence():
    counts = [10_241, 7, 99_999, 123, 60_000]
    total = sum(counts)
    whole = Order(counts, seed=1).indices(0, 2 * total)
    rng = np.random.default_rng(0)
    for start in (0, total - 5, total, *rng.integers(0, 2 * total - 500, 20)):
        assert np.array_equal(Order(counts, seed=1).indices(start, start + 500), whole[start : start + 500])
    assert Order(counts, seed=1).indices(total + 7, total + 8)[0] == whole[total + 7]


def test_a_seek_into_a_hundred_million_samples_is_cheap():
    order = Order([10_000] * 10_000, seed=0)
    position = 7 * 10**8 + 12_345
    assert order.indices(position, position + 4).tolist() == [65960508, 55440392, 56400661, 56400620]
    assert sum(len(window) for window in order._windows.values()) < 20_000  # no permutation of the whole set


def test_each_shard_is_read_nearly_front_to_back_and_mixed_with_others():
    """Within an epoch a shard's samples advance, but for the window of 64 blocks they are shuffled in."""
    counts = [5000] * 40
    sequence = Order(counts, seed=2).indices(0, sum(counts))
    assert len(np.unique(sequence[:8000] // 5000)) >= 15
    for shard in range(0, 40, 7):
        inside = sequence[sequence // 5000 == shard] % 5000
        behind = np.maximum.accumulate(inside) - inside
        assert behind.max() < 16 * BLOCK_SAMPLES
        assert np.abs(np.diff(inside)).mean() > 50


def test_small_sets_are_shuffled_uniformly():
    """One window: each of 100 samples is equally likely at the first place (chi-square over 1000 epochs)."""
    order = Order([30, 70], seed=9)
    firsts = np.bincount([order.indices(100 * epoch, 100 * epoch + 1)[0] for epoch in range(1000)], minlength=100)
    assert ((firsts - 10) ** 2 / 10).sum() < 149  # the 99.9 % quantile of chi-square with 99 degrees of freedom
