"""scripts/bench_training_sets.py: its synthetic files have the names of real downloads."""

import bench_training_sets
import pytest

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
