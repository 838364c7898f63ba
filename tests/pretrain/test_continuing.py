"""Runs that go on otherwise than they began: more steps, other settings, a branch of another run."""

import json

import pytest
from tiny.engine import RECORDER, Engine

from pretrain import checkpoints
from pretrain.config import from_preset
from vlm.errors import UserError

SHORT = {"steps": 40, "schedule": "wsd", "batch_size": 8}  # warm-up 4, stable until step 34


def going_on(run, data="of the data", **changes):
    """The settings that the run goes on with, and the step, as `pretrain.train.train` finds them."""
    run.mkdir(exist_ok=True)
    config = from_preset("tiny", out=str(run), **{**SHORT, **changes})
    config = checkpoints.branch_if_asked(run, checkpoints.keep_warmup(run, config), data)
    return config, checkpoints.resume(Engine(), checkpoints.open_checkpoints(run, config, data), config)[0]


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 20 and 30, both of its stable phase, and the records of its 31 steps."""
    run = tmp_path / "run"
    config = from_preset("tiny", out=str(run), **SHORT)
    assert config.warmup_steps == 4
    for step in (20, 30):
        checkpoints.save(Engine(), checkpoints.open_checkpoints(run, config, "of the data"), step, RECORDER)
    lines = [json.dumps({"step": step, "loss": 1 / (step + 1)}) for step in range(31)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_more_steps_in_the_stable_phase_are_as_if_they_had_been_asked_for_at_first(run, capsys):
    config, step = going_on(run, steps=1000)
    assert (config.steps, config.warmup_steps, step) == (1000, 4, 30)  # the preset's warm-up would be 200 now
    assert "goes on from step 30 with other settings: steps 40 -> 1000" in capsys.readouterr().out
    assert going_on(run, steps=36)[1] == 30  # fewer: all 30 steps are before the decay
    with pytest.raises(UserError, match=r"\(steps 40 -> 33\): restore them, go on with --allow-change steps, or give"):
        going_on(run, steps=33)


def test_more_steps_in_the_decay_are_refused_unless_allowed(run):
    config = from_preset("tiny", out=str(run), **SHORT)
    checkpoints.save(Engine(), checkpoints.open_checkpoints(run, config, "of the data"), 36, RECORDER)
    with pytest.raises(UserError, match=r"\(its decay has begun: from a checkpoint before, --branch RUN"):
        going_on(run, steps=80)
    assert going_on(run, steps=80, allow_change=("steps",))[1] == 36
    with pytest.raises(UserError, match="is at step 36 already: give --steps 36 or more"):
        going_on(run, steps=35, allow_change=("steps",))


def test_a_warm_up_that_is_asked_for_is_had(run):
    assert going_on(run, steps=1000, warmup_steps=200, allow_change=("steps", "warmup-steps"))[0].warmup_steps == 200


def test_data_learnt_a_tokenizer_and_cannot_change(run):
    with pytest.raises(UserError, match="--allow-change data: a checkpoint does not fit another data"):
        going_on(run, "of others", allow_change=("data",))
    assert going_on(run, lr=1e-3, allow_change=("lr",))[1] == 30


def test_a_damaged_checkpoint_is_no_start_of_a_branch(run, tmp_path):
    state = run / "checkpoints/step_20/state.json"
    state.write_text(state.read_text() + " ")
    with pytest.raises(UserError, match=r"step_20 is damaged: .*; give another --branch-step \(\[20, 30\]\)$"):
        going_on(tmp_path / "decay", branch=str(run), branch_step=20, steps=24)


def test_a_branch_starts_from_the_checkpoint_and_goes_on_by_itself(run, tmp_path):
    branch = tmp_path / "decay"
    flags = {"branch": str(run), "branch_step": 20, "steps": 24}
    config, step = going_on(branch, **flags)
    assert (config.warmup_steps, step) == (4, 20)
    assert [json.loads(line)["step"] for line in (branch / "metrics.jsonl").open()] == list(range(20))
    checkpoints.save(Engine(), checkpoints.open_checkpoints(branch, config, "of the data"), 22, RECORDER)
    assert going_on(branch, **flags)[1] == 22  # started again it is a run as any other
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_20", "step_30"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("torn\n{}\n")
    other = tmp_path / "other"
    with pytest.raises(UserError, match="line 32 is not JSON"):
        going_on(other, **flags)
    assert not list(other.rglob("step_20"))  # a second try would go on from it, without the records


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"branch_step": 25}, "holds no checkpoint of step 25: it has 20, 30"),
        ({"lr": 1e-3}, r"run was started with other settings \(lr 0.0007 -> 0.001\)"),
        ({"embed_dim": 32}, r"\(embed_dim 64 -> 32\): restore them or give another --out"),
        ({"steps": 30}, r"\(steps 40 -> 30\)"),  # its decay would have begun at 26
        ({"branch": "nowhere"}, "nowhere holds no checkpoint: give the folder of a run"),
    ],
)
def test_a_branch_that_cannot_be_leaves_nothing(run, tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        going_on(tmp_path / "branch", **{"branch": str(run), **flags})
    assert not list((tmp_path / "branch").iterdir())


def test_a_branch_never_takes_the_place_of_a_run(run, tmp_path):
    (tmp_path / "branch/encoder").mkdir(parents=True)
    with pytest.raises(UserError, match="branch holds a run's encoder: give another --out"):
        going_on(tmp_path / "branch", branch=str(run))
