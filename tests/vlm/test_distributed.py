"""Two ranks agree: on a flag, on what rank 0 found, on rows, on the error that ends them, and on who is late."""

import contextlib
import io
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlm.distributed import AnyRank, all_rows, all_sum, from_main, late_ranks_named, on_main
from vlm.errors import UserError
from vlm.run.folder import locked


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
    rows = all_rows(torch.tensor([[rank, 1], [rank, 2]])).tolist()
    torch.save((answers, from_main(rank + 7), outcome, refused, rows), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_agree(tmp_path):
    with locked(tmp_path / "run"):
        mp.spawn(worker, args=(tmp_path,), nprocs=2)
    answers = [False, False, True, False]
    rows = [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert torch.load(tmp_path / "0.pt") == (answers, 7, "UserError", ["not this", 3], rows)
    assert torch.load(tmp_path / "1.pt") == (answers, 7, "SystemExit", ["2", 3], rows)


def late(rank, folder, told):
    """Rank 1 never comes to the sum."""
    store, short = dist.FileStore(f"{folder}/store", 2), timedelta(seconds=1)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=short)
    if rank == 1:
        told.wait()
        return
    said, code = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(said), late_ranks_named(1 / 60):
            all_sum(torch.ones(2))
    except SystemExit as end:
        code = end.code
    torch.save((code, said.getvalue()), folder / "late.pt")
    told.set()


def test_the_rank_that_does_not_come_is_named(tmp_path):
    mp.spawn(late, args=(tmp_path, mp.get_context("spawn").Event()), nprocs=2)
    code, said = torch.load(tmp_path / "late.pt")
    assert code == 1 and said.count("\n") == 1
    assert said.startswith("error: rank 0 waited 0.0166667 minutes for rank 1, which hangs or is too slow: the last")
