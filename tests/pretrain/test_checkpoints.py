"""What a run does with the folder it finds (go on, start anew, refuse), what is none of its, and full disks."""

import errno
import json
import pickle
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny.engine import RECORDER, Engine
from tiny.strangers import Touch, list_files, pickle_into

from pretrain import checkpoints
from pretrain.config import from_preset
from pretrain.zero import zero_config
from vlm.errors import UserError

DATA = "of the data"


def kept(run, data=DATA):
    return checkpoints.open_checkpoints(run, from_preset("tiny"), data)


def resume(run, how="auto", engine=None, **changes):
    return checkpoints.resume(engine or Engine(), kept(run), from_preset("tiny", resume=how, **changes))


def saved(run, *steps):
    for step in steps:
        checkpoints.save(Engine(moved=step % 4), kept(run), step, RECORDER)
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
    assert resume(saved(tmp_path, 9, 10), engine=engine) == (10, RECORDER)
    assert engine.numbers() == Engine(moved=2).numbers() and len(engine.numbers()) == 4 + 3 + 4 * 3
    with pytest.raises(UserError, match="holds a run at step 10"):
        resume(tmp_path, "never")


def test_no_moments_are_kept_before_the_first_step_that_moves(tmp_path):
    """Every step so far was skipped: AdamW begins as in a run from the start."""
    engine = Engine()
    assert resume(saved(tmp_path, 4), engine=engine) == (4, RECORDER)
    assert len(engine.numbers()) == 4 + 3 and not engine.optimizer.state
    assert json.loads((tmp_path / "checkpoints/step_4/state.json").read_text()) == {
        "format": 1, "step": 4, "updates": 0, "recorder": RECORDER
    }  # fmt: skip


def test_files_are_shared_out_by_size():
    mega = 1 << 20
    assert checkpoints.file_numbers([5, 1, 1, 1, 2, 9], 2) == [0, 1, 1, 1, 1, 0]
    assert checkpoints.file_numbers([700 * mega] * 5, 2) == [0, 1, 0, 1, 2]
    assert checkpoints.file_numbers([700 * mega] * 5, 1) == [0, 0, 1, 1, 2]


def test_a_folder_without_checkpoints(tmp_path):
    assert resume(tmp_path / "new", "never") == (0, None)
    assert resume(encoder(tmp_path / "untrained", 0)) == (0, None)
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
    file = "state-00001-of-00001.safetensors"
    shutil.copy(tmp_path / "checkpoints/step_2" / file, tmp_path / "checkpoints/step_3" / file)
    with pytest.raises(UserError, match=r"other settings \(data_fingerprint 'of the data' -> 'of others'\)"):
        kept(tmp_path, "of others").newest()
    with pytest.raises(UserError, match=r"other settings \(lr 0.0007 -> 0.001\): restore them, go on with --allow"):
        checkpoints.open_checkpoints(tmp_path, from_preset("tiny", lr=0.001), DATA).newest()
    assert names(tmp_path) == ["step_2", "step_3"]
    assert resume(tmp_path) == (2, RECORDER)
    assert f"step_3/{file} is missing or not what was written" in capsys.readouterr().err
    assert names(tmp_path) == ["step_2", "step_3.damaged"]
    assert names(saved(tmp_path, 3)) == ["step_2", "step_3", "step_3.damaged"]
    for step in (2, 3):
        (tmp_path / "checkpoints" / f"step_{step}" / "manifest.json").write_text("{}")
    for _ in range(2):  # it stays refused: nothing was renamed
        with pytest.raises(UserError, match="is whole: give another --out"):
            resume(tmp_path)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, error):
    saved(tmp_path, 1)

    def refuse(*_):
        raise error

    monkeypatch.setattr(checkpoints, "save_file", refuse)
    with pytest.raises(UserError, match=r"cannot write .*/step_2 \(.*(No space left|only in part).*; [\d,]+ bytes"):
        saved(tmp_path, 2)
    assert names(tmp_path) == ["step_1"]


def test_a_rank_whose_disk_refuses_still_helps_to_gather(tmp_path, monkeypatch):
    """Else the others would wait for it for ever."""
    engine, gathered, full = Engine(moved=1), [], OSError(errno.ENOSPC, "No space left on device")

    def states(engine):
        for item in whole_states(engine):
            gathered.append(item[0])
            yield item

    def refuse(*_):
        raise full

    whole_states = checkpoints.whole_states
    monkeypatch.setattr(checkpoints, "whole_states", states)
    monkeypatch.setattr(checkpoints, "save_file", refuse)
    monkeypatch.setattr(checkpoints, "FILE_BYTES", 1)  # a file for each parameter
    with pytest.raises(OSError) as raised:
        checkpoints._write_parameters(engine, tmp_path)
    assert raised.value is full and gathered == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_process_that_does_not_see_the_checkpoint_stops(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "all_items", lambda items: [*items, False])  # as a second process answers
    with pytest.raises(UserError, match=r"cannot load .*/step_1.*storage that all nodes share"):
        resume(tmp_path)


def test_processes_must_divide_the_batch():
    """Said before anything is loaded, in a new run and in one that goes on elsewhere."""
    messages = {
        (8, 3): "launch 2 or 4; a new run may also take --batch-size 6 or 9",
        (4096, 24): "launch 16 or 32; a new run may also take --batch-size 4080 or 4104",
        (8, 12): "launch 8; a new run may also take --batch-size 12",
    }
    for (batch, processes), remedy in messages.items():
        with pytest.raises(UserError) as error:
            zero_config(from_preset("tiny", batch_size=batch), processes)
        assert str(error.value) == f"--batch-size {batch} is not a multiple of {processes} processes: {remedy}"


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(UserError) as error:
        resume(tmp_path, engine=Engine(width=5))
    assert str(error.value) == (
        f"{tmp_path}/checkpoints/step_1 is not of the model of this run: exp_avg/0.weight is (1, 3), needed is (1, 5) "
        "(3 tensors differ): give another --out"
    )
    file = tmp_path / "checkpoints/step_1/state-00001-of-00001.safetensors"
    held = load_file(file)
    save_file({name: value for name, value in held.items() if name != "weight/1.bias"} | {"more": torch.ones(1)}, file)
    list_files(file.parent)
    with pytest.raises(UserError, match=r"more is \(1,\), needed is none \(2 tensors differ\)"):
        resume(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"step": 2}, {"step": "1"}, {"updates": -1}, {"updates": 1.0}, {"updates": True},
        {"recorder": None}, {"recorder": {}}, {"recorder": {**RECORDER, "failures": "1"}},
        {"recorder": {**RECORDER, "peaks": [1.0]}}, {"recorder": {**RECORDER, "peaks": {"rank_image": "high"}}},
        {"recorder": {**RECORDER, "warning": 3}}, [1], "text",
    ],
)  # fmt: skip
def test_a_state_of_another_form_is_refused(tmp_path, change):
    file = saved(tmp_path, 1) / "checkpoints/step_1/state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, **change} if isinstance(change, dict) else change))
    list_files(file.parent)
    with pytest.raises(UserError) as error:
        resume(tmp_path)
    assert str(error.value) == f"{file} is not what pretraining writes: give another --out"


def test_a_checkpoint_of_an_older_version_is_refused_unopened(tmp_path):
    """DeepSpeed's files are pickles, and it opens them without asking."""
    folder, marker = saved(tmp_path, 1) / "checkpoints/step_1", tmp_path / "executed"
    pickle_into(folder / "mp_rank_00_model_states.pt", marker)
    list_files(folder)
    for start in (resume, lambda run: kept(run).verified()):
        with pytest.raises(UserError) as error:
            start(tmp_path)
        assert str(error.value) == (
            f"{folder} was written by an older version, as pickles (mp_rank_00_model_states.pt), which are opened no "
            "more: finish the run with that version, or start anew with another --out"
        )
    assert not marker.exists()


@pytest.mark.parametrize("listed", ["all", "as before", "nothing"])
def test_no_file_of_a_stranger_runs_code(tmp_path, listed):
    """Each file in turn is a pickle, or one more is; the manifest lists it, does not, or lists nothing."""
    whole, marker = saved(tmp_path / "whole", 1) / "checkpoints/step_1", tmp_path / "executed"
    files = [path.name for path in whole.iterdir() if path.name != "manifest.json"]
    assert len(files) == 3
    others = ["mp_rank_00_model_states.pt", "latest", "optimizer.pkl", "state-00002-of-00002.safetensors"]
    for number, name in enumerate([*files, *others]):
        run = tmp_path / f"run_{number}"
        folder = run / "checkpoints/step_1"
        shutil.copytree(whole, folder)
        pickle_into(folder / name, marker)
        if listed == "all":
            list_files(folder)
        elif listed == "nothing":
            manifest = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))
        try:
            assert resume(run) == (1, RECORDER)
            assert name in others  # what is not one of ours is not even looked at
        except UserError as error:
            assert "\n" not in str(error)
        assert not marker.exists(), name
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()  # so it would have shown
