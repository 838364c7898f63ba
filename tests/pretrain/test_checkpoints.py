"""What a run does with the folder it finds (go on, start anew, refuse), and checkpoints that cannot be written."""

import errno
import json
from pathlib import Path

import pytest

from pretrain import checkpoints
from pretrain.config import from_preset
from vlm.errors import UserError

DATA = "of the data"


class Engine:
    """Writes and loads one file; `broken` is raised when it is asked to write."""

    def __init__(self, broken=None, sees=True):
        self.broken, self.sees, self.loaded = broken, sees, None

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        (Path(folder) / tag).mkdir(parents=True, exist_ok=True)
        (Path(folder) / tag / "weights").write_text(f"of step {client_state['step']}")
        if self.broken:
            raise self.broken

    def load_checkpoint(self, folder, tag):
        self.loaded = tag
        return (f"{folder}/{tag}", {}) if self.sees else (None, None)


def kept(run, data=DATA):
    return checkpoints.open_checkpoints(run, from_preset("tiny"), data)


def resume(run, how="auto", engine=None, **changes):
    return checkpoints.resume(engine or Engine(), kept(run), from_preset("tiny", resume=how, **changes))


def saved(run, *steps):
    for step in steps:
        checkpoints.save(Engine(), kept(run), step)
    return run


def encoder(run, steps):
    (run / "encoder").mkdir(parents=True)
    (run / "encoder" / "config.json").write_text(json.dumps({"training": {"steps": steps}}))
    return run


def records(run, text='{"step": 0}\n'):
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text(text)
    return run


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_newest_checkpoint_is_loaded(tmp_path):
    engine = Engine()
    assert resume(saved(tmp_path, 9, 10), engine=engine) == 10 and engine.loaded == "step_10"
    with pytest.raises(UserError, match="holds a run at step 10"):
        resume(tmp_path, "never")


def test_a_folder_without_checkpoints(tmp_path):
    assert resume(tmp_path / "new", "never") == 0
    assert resume(encoder(tmp_path / "untrained", 0)) == 0
    for run, found in {
        encoder(tmp_path / "trained", 5): "encoder/",
        records(tmp_path / "killed"): "metrics.jsonl",
        records(encoder(tmp_path / "finished", 5)): "encoder/ and metrics.jsonl",
    }.items():
        with pytest.raises(UserError, match=f"holds a run's {found}: give another --out"):
            resume(run, "never")
    for name in ("trained", "finished"):
        for steps in (0, 4500):
            with pytest.raises(UserError, match="holds a trained encoder/ and no checkpoint"):
                resume(tmp_path / name, steps=steps)
    assert (tmp_path / "finished" / "metrics.jsonl").exists()


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path, capsys):
    saved(tmp_path, 1, 2, 3)
    (tmp_path / "checkpoints" / "step_3" / "weights").write_text("of step 4")
    with pytest.raises(UserError, match=r"other settings \(data_fingerprint 'of the data' -> 'of others'\)"):
        kept(tmp_path, "of others").newest()
    assert names(tmp_path) == ["step_2", "step_3"]
    assert resume(tmp_path) == 2
    assert "step_3/weights is missing or not what was written" in capsys.readouterr().err
    assert names(tmp_path) == ["step_2", "step_3.damaged"]
    assert names(saved(tmp_path, 3)) == ["step_2", "step_3", "step_3.damaged"]
    for step in (2, 3):
        (tmp_path / "checkpoints" / f"step_{step}" / "manifest.json").write_text("{}")
    for _ in range(2):  # it stays refused: nothing was renamed
        with pytest.raises(UserError, match="is whole: give another --out"):
            resume(tmp_path)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/0")],
)
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, error):
    saved(tmp_path, 1)
    with pytest.raises(
        UserError,
        match=r"cannot write .*/step_2 \((No space left on device|it was written only in part); [\d,]+ bytes free",
    ):
        checkpoints.save(Engine(error), kept(tmp_path), 2)
    assert names(tmp_path) == ["step_1"]
    with pytest.raises(RuntimeError, match="CUDA"):
        checkpoints.save(Engine(RuntimeError("CUDA error")), kept(tmp_path), 2)


def test_a_process_that_does_not_see_the_checkpoint_stops(tmp_path):
    with pytest.raises(UserError, match=r"cannot load .*/step_1.*storage that all nodes share"):
        resume(saved(tmp_path, 1), engine=Engine(sees=False))
