"""What a run does with the folder it finds, in either stage: go on, start anew, or leave it alone."""

from pathlib import Path

import pytest

from vlm.errors import UserError
from vlm.run.checkpoints import Checkpoints
from vlm.run.resume import starting_step

RESULT = pytest.mark.parametrize("result", ["encoder", "vlm"])


def start(run: Path, result: str, resume: str = "auto", **more) -> int | None:
    return starting_step(Checkpoints(run, {}), resume, result, **more)


def saved(run: Path, *steps: int) -> Path:
    for step in steps:
        Checkpoints(run, {}).save(step, lambda partial: (partial / "w").write_text("x"))
    return run


def trained(run: Path, result: str) -> Path:
    (run / result).mkdir(parents=True)
    (run / result / "weights").write_text("of hours")
    return run


def records(run: Path, text: str = '{"step": 0}\n') -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text(text)
    return run


def content(run: Path) -> dict[str, str]:
    return {str(path.relative_to(run)): path.read_text() for path in run.rglob("*") if path.is_file()}


@RESULT
def test_a_run_goes_on_with_its_newest_checkpoint(tmp_path, result):
    run = saved(records(trained(tmp_path, result)), 9, 10)
    before = content(run)
    for resume in ("auto", "required"):
        assert start(run, result, resume) == 10
    with pytest.raises(UserError) as error:
        start(run, result, "never")
    assert str(error.value) == (f"{run} holds a run at step 10: give another --out, or --resume auto to continue it")
    assert content(run) == before


@RESULT
def test_damaged_checkpoints_are_set_aside_once_another_is_chosen(tmp_path, result):
    run = saved(tmp_path, 1, 2)
    (run / "checkpoints/step_2/w").write_text("y")
    assert start(run, result) == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_1", "step_2.damaged"]


@RESULT
def test_a_new_folder_starts_anew_unless_a_checkpoint_is_required(tmp_path, result):
    for resume in ("auto", "never"):
        assert start(tmp_path / "new", result, resume) is None
    with pytest.raises(UserError, match=r"^--resume required, but .*/new has no checkpoint: use --resume auto"):
        start(tmp_path / "new", result, "required")


@RESULT
@pytest.mark.parametrize("with_records", [False, True])
def test_a_trained_result_without_checkpoints_is_never_replaced(tmp_path, result, with_records):
    run = trained(tmp_path, result)
    if with_records:
        records(run)
    before = content(run)
    with pytest.raises(UserError) as error:
        start(run, result)
    assert str(error.value) == (
        f"{run} holds a trained {result}/ and no checkpoint to go on with: give another --out, or move it away"
    )
    found = f"{result}/ and metrics.jsonl" if with_records else f"{result}/"
    with pytest.raises(UserError) as error:
        start(run, result, "never")
    assert str(error.value) == f"{run} holds a run's {found}: give another --out, or remove it"
    assert content(run) == before


@RESULT
def test_a_worthless_result_may_be_replaced(tmp_path, result):
    run = trained(tmp_path, result)
    asked = []
    assert start(run, result, worthless=lambda folder: not asked.append(folder)) is None
    assert asked == [run / result]


@RESULT
def test_records_of_a_run_killed_before_its_first_checkpoint_are_kept(tmp_path, result, capsys):
    for attempt in ("1", "2"):
        assert start(records(tmp_path, f'{{"step": {attempt}}}\n'), result) is None
        assert capsys.readouterr().out == (
            f"no checkpoint in {tmp_path}: starting anew, "
            f"the records of before are in {tmp_path}/metrics.old-{attempt}.jsonl\n"
        )
    assert content(tmp_path) == {"metrics.old-1.jsonl": '{"step": 1}\n', "metrics.old-2.jsonl": '{"step": 2}\n'}
    with pytest.raises(UserError, match=r"holds a run's metrics\.jsonl: give another --out"):
        start(records(tmp_path), result, "never")
    assert start(records(tmp_path, '{"st'), result) is None  # nothing but a torn line
    assert not (tmp_path / "metrics.old-3.jsonl").exists()
