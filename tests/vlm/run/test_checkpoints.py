"""Checkpoints: whole or not there, two of them kept, damage found, and one line where the disk refuses."""

import errno
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import SafetensorError

from vlm.errors import UserError
from vlm.run.changes import refuse_changes
from vlm.run.checkpoints import Checkpoints

SETTINGS = {"lr": 0.5, "seed": 3}
FULL = OSError(errno.ENOSPC, "No space left on device")


def kept(run: Path, **changes) -> Checkpoints:
    return Checkpoints(run, {**SETTINGS, **changes})


def weights(text: str):
    """What writes a checkpoint of one file."""

    def fill(partial: Path) -> None:
        (partial / "weights").write_text(text)

    return fill


def refusal(error: Exception):
    """What writes half a checkpoint, and then fails."""

    def fill(partial: Path) -> None:
        (partial / "weights").write_text("half")
        raise error

    return fill


def saved(run: Path, *steps: int) -> Checkpoints:
    for step in steps:
        kept(run).save(step, weights(f"of step {step}"))
    return kept(run)


def damage(run: Path, step: int) -> None:
    (run / "checkpoints" / f"step_{step}" / "weights").write_text("of step X")  # as long as what was written


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_is_its_files_and_their_hashes(tmp_path):
    saved(tmp_path, 9)
    folder = tmp_path / "checkpoints" / "step_9"
    assert (folder / "weights").read_text() == "of step 9"
    assert json.loads((folder / "manifest.json").read_text()) == {
        "step": 9,
        "world_size": 1,
        "config": {"lr": 0.5, "seed": 3},
        # printf 'of step 9' | sha256sum
        "files": {"weights": [9, "f693bff5b2f4cdade4edc88acbe2c5e49b5125ee0a12f3e42cea4f929b7553f9"]},
    }


def test_the_newest_two_are_kept_by_number(tmp_path):
    checkpoints = saved(tmp_path, 8, 9, 10)
    assert names(tmp_path) == ["step_10", "step_9"]
    assert checkpoints.steps() == [9, 10] and checkpoints.newest() == 10
    assert kept(tmp_path / "new").newest() is None


def test_a_step_saved_again_is_replaced_and_litter_removed(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "checkpoints" / "step_7.tmp").mkdir()  # left by a kill
    kept(tmp_path).save(1, weights("again"))
    assert names(tmp_path) == ["step_1"]
    assert (tmp_path / "checkpoints/step_1/weights").read_text() == "again"


@pytest.mark.parametrize("harm", ["changed", "missing", "no manifest", "empty manifest", "another manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path, capsys, harm):
    checkpoints = saved(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints" / "step_2"
    if harm == "changed":
        damage(tmp_path, 2)
    elif harm == "missing":
        (folder / "weights").unlink()
    elif harm == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("" if harm == "empty manifest" else "[3]")
    assert checkpoints.newest() == 1
    line = capsys.readouterr().err
    assert line.startswith(f"passing over {folder}: ") and line.count("\n") == 1
    checkpoints.set_aside(1)
    assert names(tmp_path) == ["step_1", "step_2.damaged"]
    saved(tmp_path, 2, 3)  # what was set aside does not count among those kept
    assert names(tmp_path) == ["step_2", "step_2.damaged", "step_3"]


def test_nothing_is_renamed_where_none_is_whole_or_settings_changed(tmp_path):
    saved(tmp_path, 1, 2)
    damage(tmp_path, 2)
    with pytest.raises(UserError, match=r"other settings \(seed 3 -> 4\)"):
        kept(tmp_path, seed=4).newest()
    damage(tmp_path, 1)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^no checkpoint under .*/checkpoints is whole: give another --out to"):
            kept(tmp_path).newest()
    assert names(tmp_path) == ["step_1", "step_2"]


def test_every_changed_setting_is_named(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(UserError) as error:
        kept(tmp_path, lr=0.25, data="abc").newest()
    assert str(error.value) == (
        f"{tmp_path} was started with other settings (data None -> 'abc', lr 0.5 -> 0.25): "
        "restore them, go on with --allow-change data lr, or give another --out"
    )
    refuse_changes(tmp_path, SETTINGS, dict(SETTINGS))


def test_another_number_of_processes_goes_on(tmp_path):
    saved(tmp_path, 1)
    manifest = tmp_path / "checkpoints/step_1/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "world_size": 2}))
    assert kept(tmp_path).newest() == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (Exception("No space left on device (os error 28)"), "No space left on device"),  # of tokenizers
    ],
)
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path, error, reason):
    saved(tmp_path, 1)
    message = (
        rf"^cannot write .*/step_2 \({reason}; [\d,]+ bytes free\): "
        "the previous checkpoint is untouched, make room and resume$"
    )
    with pytest.raises(UserError, match=message):
        kept(tmp_path).save(2, refusal(error))
    assert names(tmp_path) == ["step_1"] and kept(tmp_path).newest() == 1


@pytest.mark.parametrize("mistake", [RuntimeError("CUDA error: device-side assert triggered"), KeyError("w")])
def test_what_is_not_the_disks_fault_passes_through_as_it_is(tmp_path, mistake):
    saved(tmp_path, 1)
    with pytest.raises(type(mistake)) as error:
        kept(tmp_path).save(2, refusal(mistake))
    assert error.value is mistake
    assert kept(tmp_path).newest() == 1


def worker(rank: int, folder: Path) -> None:
    """Save with a full disk on rank 0, then on rank 1, then on neither."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    outcomes = []
    for run, full in (("first", 0), ("second", 1), ("neither", None)):
        checkpoints = kept(folder / run)
        checkpoints.save(1, lambda partial: (partial / f"of_{rank}").write_text("whole"))
        try:
            checkpoints.save(2, refusal(FULL) if rank == full else weights("whole"))
            outcomes.append(None)
        except (UserError, SystemExit) as error:
            outcomes.append((type(error).__name__, str(error)))
    torch.save(outcomes, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_full_disk_on_either_rank_is_one_line(tmp_path):
    mp.spawn(worker, args=(tmp_path,), nprocs=2)
    first, second, neither = torch.load(tmp_path / "0.pt")
    assert neither is None and first[0] == second[0] == "UserError"
    assert first[1].startswith(f"cannot write {tmp_path}/first/checkpoints/step_2 (No space left on device; ")
    assert second[1].startswith(f"cannot write {tmp_path}/second/checkpoints/step_2 (No space left on device; ")
    assert torch.load(tmp_path / "1.pt") == [("SystemExit", "2"), ("SystemExit", "2"), None]
    for run in ("first", "second"):
        assert names(tmp_path / run) == ["step_1"]
        files = sorted(path.name for path in (tmp_path / run / "checkpoints/step_1").iterdir())
        assert files == ["manifest.json", "of_0", "of_1"]
    assert names(tmp_path / "neither") == ["step_1", "step_2"]


def test_milestones_are_kept_besides_the_last_two(tmp_path):
    for step in (2, 3, 4, 5, 6, 7):
        Checkpoints(tmp_path, SETTINGS, keep_every=3).save(step, lambda folder: None)
    assert names(tmp_path) == ["step_3", "step_6", "step_7"]
    for step in (8, 9, 10):  # gone on with without the flag, and with another value
        Checkpoints(tmp_path, SETTINGS, keep_every=0 if step < 9 else 5).save(step, lambda folder: None)
    assert names(tmp_path) == ["step_10", "step_3", "step_6", "step_9"]
