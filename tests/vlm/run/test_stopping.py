"""A run that ends before its last step: told to stop, or without a finite gradient for too long."""

import pytest

from vlm.errors import UserError
from vlm.run.progress import progress
from vlm.run.stopping import Patience, leave


def test_five_steps_in_a_row_without_a_finite_gradient_end_the_run():
    patience = Patience("lower --lr")
    for step in range(10, 14):
        patience.count(skipped=True)
        patience.check(step)
    patience.count(skipped=True)
    with pytest.raises(UserError, match=r"^no finite gradient for 5 steps up to step 14: lower --lr$"):
        patience.check(14)


def test_one_good_step_makes_patience_new():
    patience = Patience("lower --lr")
    for step, skipped in enumerate([True] * 4 + [False] + [True] * 4):
        patience.count(skipped)
        patience.check(step)
    assert patience.failures == 4


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(15, 143, "terminated"), (2, 130, "interrupted"), (1, 129, "hung up"), (None, 143, "terminated")],
)
def test_leaving_says_what_is_saved_and_exits_as_the_signal_asks(capsys, number, code, word):
    bar = progress(9, "run", "step", show=False)
    with pytest.raises(SystemExit) as end:
        leave(4, bar, number)
    assert end.value.code == code
    assert capsys.readouterr().err == f"{word}: step 4 is saved, the same command goes on from there\n"
