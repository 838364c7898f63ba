"""A run's folder is its own, and its ranks agree on when to stop."""

import json
import os
import signal
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlm.distributed import AnyRank, from_main, on_main
from vlm.errors import UserError
from vlm.run.folder import forget_from, locked
from vlm.run.stopping import termination


def test_a_second_run_is_told_who_holds_the_folder(tmp_path):
    with locked(tmp_path / "run"):
        holder = rf"process {os.getpid()} on {socket.gethostname()}"
        with (
            pytest.raises(UserError, match=rf"another run is writing to .*/run \({holder}\)"),
            locked(tmp_path / "run"),
        ):
            pass
    with locked(tmp_path / "run"):
        pass


def test_what_a_kill_left_is_finished_when_the_folder_is_taken(tmp_path):
    for name in (".encoder.abc_1234.old", "checkpoints/.step_3.abc_1234.old"):
        (tmp_path / name).mkdir(parents=True)
    with locked(tmp_path):
        assert (tmp_path / "encoder").is_dir() and (tmp_path / "checkpoints" / "step_3").is_dir()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*/file \(File exists\)"), locked(tmp_path / "file"):
        pass


def test_records_of_steps_to_be_repeated_are_dropped(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    forget_from(metrics, 3)
    assert not metrics.exists()
    metrics.write_text("".join(json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(5)) + '{"step"')
    forget_from(metrics, 3)
    assert metrics.read_text() == "".join(json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(3))


def test_sigterm_only_raises_a_flag():
    with termination() as signals:
        assert not signals
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def refuse(words, rank):
    if words:
        raise UserError(words)
    return rank + 3


def worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    asked = AnyRank(torch.device("cpu"))
    answers = [asked(rank == 1 and call == 1) for call in range(4)]
    outcome = None
    try:
        with locked(folder / "run"):
            pass
    except (UserError, SystemExit) as error:
        outcome = type(error).__name__
    refused = []
    for words in ("not this", None):
        try:
            refused.append(on_main(lambda words=words: refuse(words, rank)))
        except (UserError, SystemExit) as error:
            refused.append(str(error))
    torch.save((answers, from_main(rank + 7), outcome, refused), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_agree(tmp_path):
    with locked(tmp_path / "run"):
        mp.spawn(worker, args=(tmp_path,), nprocs=2)
    answers = [False, False, True, False]
    assert torch.load(tmp_path / "0.pt") == (answers, 7, "UserError", ["not this", 3])
    assert torch.load(tmp_path / "1.pt") == (answers, 7, "SystemExit", ["2", 3])
