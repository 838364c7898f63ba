"""The fault sweep's table and verdict, and one kill in the whole tree of `deepspeed`, launch.py and ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
from faults import hostile, inputs, sweep
from faults.fault import Failed, Fault, Sweep, demand
from faults.launched import launch
from faults.tiny import losses

from vlm.errors import UserError
from vlm.run.folder import DONE
from vlm.run.steps import committed_steps


def survive(folder: Path) -> str:
    (folder / "damage").write_text("done")
    return "went on"


def break_down(folder: Path) -> str:
    (folder / "damage").write_text("done")
    demand(False, "it\nloaded")
    return "never"


def mistake(folder: Path) -> str:
    raise KeyError("a row's own")


def test_the_table_and_the_verdict(monkeypatch, capsys, tmp_path):
    rows = [Fault("one bit", 0, survive), Fault("two bits", 3, break_down), Fault("no bit", 0, mistake)]
    monkeypatch.setattr(sweep, "chosen", lambda settings: [("kills", row) for row in rows])
    assert not sweep.run(Sweep(keep=str(tmp_path)))
    lines = [line.split(" | ")[:3] for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["| one bit", "0", "went on"]
    assert lines[3][:2] == ["| two bits", "3"] and lines[3][2].startswith("FAIL: it loaded (left in ")
    assert lines[4][2].startswith("FAIL: KeyError: ") and lines[6] == ["1 of 3 survived"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["damage"]
    monkeypatch.setattr(sweep, "chosen", lambda settings: [("kills", rows[0])])
    assert sweep.run(Sweep())


def test_rows_are_chosen_by_kind_and_by_words():
    def names(*only: str, **more) -> list[str]:
        return [fault.name for _, fault in sweep.chosen(replace(Sweep(), only=only, **more))]

    assert names("kills", kills=5) == [f"kill -9 of {name}" for name in ("rank", "all", "launch", "deepspeed", "rank")]
    assert names("SIGHUP") == [f"SIGHUP to {target}" for target in ("rank", "launch", "deepspeed", "group")]
    assert len(names()) > 40
    kinds = "kills, stops, steps, leftovers, mutations, disk, inputs, web"
    with pytest.raises(UserError, match=f"^--only 'kilsl': no fault has it in its name; the kinds are {kinds}$"):
        names("SIGHUP", "kilsl")


def test_input_that_runs_code_is_not_survived(monkeypatch, tmp_path):
    """A module stands for a command that was led to run what its input holds."""
    (tmp_path / "misled.py").write_text("import os\ndef main(): open(os.environ['EXECUTED'], 'w').close()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(inputs, "parts", lambda settings: tmp_path)
    settings = Sweep()
    try:
        with pytest.raises(Failed, match="EXECUTED"):
            inputs.strike(settings, "", ("misled:main",), hostile.nothing, tmp_path)
    finally:
        settings.end()


def test_when_deepspeed_is_killed_the_ranks_save_and_leave(tmp_path):
    settings = Sweep()
    try:
        left = launch(settings, tmp_path, 0, "1:5:step:kill-deepspeed")
    finally:
        settings.end()
    saved = committed_steps(tmp_path / "run/checkpoints")[-1]
    assert saved == len(losses(tmp_path / "run")) >= 6
    assert f"terminated: step {saved} is saved, the same command goes on from there" in left.text
    assert left.seconds < 20 and not (tmp_path / "run" / DONE).exists()
