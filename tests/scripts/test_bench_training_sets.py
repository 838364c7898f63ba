"""scripts/bench_training_sets.py: its synthetic files have the names of real downloads."""

import bench_training_sets
import pytest
from bench import training_sets
from bench.harness import Goals
from bench.settings import TrainingSetsBench

from vlm.errors import UserError


def test_real_downloads_are_not_written_over(tmp_path, monkeypatch):
    questions = tmp_path / "gqa/train_balanced_questions.json"
    questions.parent.mkdir()
    questions.write_text("fetched for hours")
    monkeypatch.setattr("bench.training_sets.make", lambda root: pytest.fail(f"{root} is written to"))
    monkeypatch.setattr("sys.argv", ["bench_training_sets.py", str(tmp_path), "--make"])
    with pytest.raises(UserError, match=f"{tmp_path} exists and is not an empty folder: name another one or delete it"):
        bench_training_sets.main()
    assert questions.read_text() == "fetched for hours"


def test_it_goes_through_the_harness_and_has_no_verdict(tmp_path, monkeypatch, capsys):
    (tmp_path / "gqa").mkdir()
    opened = []
    monkeypatch.setattr("bench.training_sets.open_sets", opened.append)
    goals = training_sets.run(TrainingSetsBench(folder=str(tmp_path)))
    assert opened == [tmp_path] and isinstance(goals, Goals) and goals.all_reached
    assert capsys.readouterr().out == ""
    (tmp_path / "gqa").rmdir()
    with pytest.raises(UserError, match=f"{tmp_path} has no synthetic files: write them with --make"):
        training_sets.run(TrainingSetsBench(folder=str(tmp_path)))
