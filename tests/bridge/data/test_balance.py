"""Rows into micro-batches of like size, and micro-batches to processes."""

import numpy as np

from bridge.data.balance import cheapest, cut_micro_batches, dealt, padded_tokens

ROWS = [300, 470, 440, 310, 300, 480, 300, 460, 320, 300]  # the example of the module's docstring, in another order


def test_micro_batches_are_filled_with_rows_alike():
    assert [[ROWS[index] for index in group] for group in cut_micro_batches(ROWS, 1000, 2)] == [
        [480, 470],
        [460, 440],
        [320, 310, 300],
        [300, 300, 300],
    ]
    sizes = [padded_tokens(ROWS, group) for group in cut_micro_batches(ROWS, 1000, 2)]
    assert sizes == [960, 928, 960, 912]  # widths are multiples of 16
    assert cut_micro_batches([8, 16, 9, 15], 1000) == [[1, 3, 2, 0]]
    assert cut_micro_batches([8, 16, 9, 15], 32) == [[1, 3], [2, 0]]
    assert cut_micro_batches([8, 16, 9, 15], 15) == [[1], [3], [2], [0]]  # a row alone may be longer than the budget
    assert cut_micro_batches([], 100) == []


def test_no_micro_batch_is_nearly_empty():
    assert [len(group) for group in cut_micro_batches([320] * 9, 8 * 320)] == [5, 4]  # not 8 and 1


def test_a_process_cuts_where_it_is_cheapest():
    def lengths(overhead: int, budget: int = 1000) -> list[list[int]]:
        rows = [400, 390, 100, 96, 90]
        return [[rows[index] for index in group] for group in cheapest(rows, budget, overhead)]

    assert lengths(32) == [[400, 390], [100, 96, 90]]  # 800 + 336 tokens
    assert lengths(2000, 2000) == [[400, 390, 100, 96, 90]]  # 2,000 tokens, and one micro-batch less
    assert lengths(2000) == [[400, 390], [100, 96, 90]]  # which the budget does not allow
    assert lengths(0, 10) == [[400], [390], [100], [96], [90]]
    assert cheapest([], 100, 32) == []
    random = np.random.default_rng(0)
    rows = random.integers(300, 520, 150).tolist()
    groups = cheapest(rows, 8192, 2048)
    assert sorted(index for group in groups for index in group) == list(range(150))
    assert max(padded_tokens(rows, group) for group in groups) <= 8192
    assert sum(padded_tokens(rows, group) for group in groups) < 1.05 * sum(rows)
    assert np.mean([padded_tokens(rows, group) for group in groups]) > 0.87 * 8192


def test_processes_get_equal_shares():
    shares = dealt(ROWS, 2, 1000)
    assert [[ROWS[index] for index in share] for share in shares] == [
        [470, 440, 480, 460],
        [300, 310, 300, 300, 320, 300],
    ]
    random = np.random.default_rng(0)
    balance, full = [], []
    for _ in range(50):  # steps of about 160 images of GQA and VQAv2
        lengths = [196 + int(random.normal(each, each / 6)) for each in [13 * 20] * 75 + [5 * 21] * 85]
        shares = dealt(lengths, 8, 8192)
        assert sorted(index for share in shares for index in share) == list(range(160))
        sizes = []
        for share in shares:
            own = [lengths[index] for index in share]
            sizes.append(sum(padded_tokens(own, group) for group in cheapest(own, 8192, 1024)))
        balance.append(np.mean(sizes) / max(sizes))
        full.append(np.mean(sizes) / 8192)
    assert np.mean(balance) > 0.95
    assert dealt([100], 4, 8192) == [[0], [], [], []]  # fewer rows than processes
