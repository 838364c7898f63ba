"""--allow-change: which settings a run may go on with although they were others."""

from dataclasses import dataclass

import pytest

from vlm.errors import UserError
from vlm.run.changes import Changes, refuse_changes
from vlm.run.schedule import same_past
from vlm.run.settings import allow_change_setting, parse, setting


@dataclass(frozen=True)
class Settings:
    lr: float = setting(0.1, help="peak rate")
    batch_size: int = setting(4, help="samples a step")
    width: int = setting(8, help="of the tower", fixed=True)
    data: str = setting("a", help="captions", by_content=True)
    allow_change: tuple[str, ...] = allow_change_setting()


def changes(*typed, **more):
    flags = ["--allow-change", *typed] if typed else []
    config = parse(Settings, flags, prog="x", about="x", examples="x")
    return Changes.of(config, {"data": "data_fingerprint"}, **more)


def refused(new, *typed, old=None, **more):
    with pytest.raises(UserError) as error:
        refuse_changes("RUN", old or {"lr": 0.1, "batch_size": 4, "width": 8}, new, changes(*typed, **more))
    return str(error.value)


def test_what_is_allowed_may_differ_and_is_told():
    old, new = (
        {"lr": 0.1, "batch_size": 4, "data_fingerprint": "x"},
        {"lr": 0.2, "batch_size": 8, "data_fingerprint": "y"},
    )
    assert refuse_changes("RUN", old, dict(old), changes()) == []
    assert refuse_changes("RUN", old, {**old, "compile": False}, changes()) == []  # an older version had no such switch
    told = ["batch_size 4 -> 8", "data_fingerprint 'x' -> 'y'", "lr 0.1 -> 0.2"]
    assert refuse_changes("RUN", old, new, changes("lr", "batch_size", "data")) == told
    assert refuse_changes("RUN", old, new, changes("lr", "batch-size", "data_fingerprint")) == told


def test_what_is_not_allowed_is_refused_with_the_flag_that_would_allow_it():
    new = {"lr": 0.2, "batch_size": 8, "width": 8}
    words = "RUN was started with other settings (batch_size 4 -> 8): restore them"
    assert refused(new, "lr") == f"{words}, go on with --allow-change batch_size, or give another --out"
    assert refused(new, "lr", hints={"batch_size": "or branch"}).endswith("give another --out (or branch)")


def test_what_a_checkpoint_does_not_fit_never_changes():
    new = {"lr": 0.2, "batch_size": 4, "width": 16}
    words = "RUN was started with other settings (width 8 -> 16): restore them or give another --out"
    assert refused(new, "lr") == words
    with pytest.raises(UserError, match="--allow-change width: a checkpoint does not fit another width"):
        changes("width")
    with pytest.raises(UserError, match="--allow-change data: a checkpoint does not fit another data"):
        changes("data", fixed={"data_fingerprint"})
    with pytest.raises(UserError, match="--allow-change wdith: there is no such setting, see --help"):
        changes("wdith")


WSD = {"schedule": "wsd", "steps": 100, "warmup_steps": 10, "lr": 1.0, "min_lr": 0.1}
COSINE = {**WSD, "schedule": "cosine"}


@pytest.mark.parametrize(
    ("settings", "change", "last"),
    [
        (WSD, {"steps": 200}, 86),  # the rate of step 85 is the peak yet, that of 86 decays by the old number
        (WSD, {"steps": 40}, 35),
        (WSD, {"min_lr": 0.0}, 86),
        (WSD, {"warmup_steps": 11}, 0),
        (WSD, {"schedule": "cosine"}, 11),
        (COSINE, {"steps": 200}, 11),
        (COSINE, {"lr": 2.0}, 0),
    ],
)
def test_the_past_is_the_same_up_to_the_end_of_warm_up_or_of_the_stable_phase(settings, change, last):
    same = [same_past(step, settings, {**settings, **change}) for step in range(100)]
    assert same == [True] * (last + 1) + [False] * (99 - last)


def test_a_run_of_another_command_is_told_as_such(tmp_path):
    old, new = {f"ours_{number}": 1 for number in range(3)}, {f"theirs_{number}": 1 for number in range(3)}
    with pytest.raises(UserError, match="holds a run of another command or version, without ours_0: give"):
        refuse_changes(tmp_path, old, new)
