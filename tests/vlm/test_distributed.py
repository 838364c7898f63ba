"""Two ranks agree: on a flag, on what rank 0 found, and on the error that ends them."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlm.distributed import AnyRank, from_main, on_main
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
    torch.save((answers, from_main(rank + 7), outcome, refused), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_agree(tmp_path):
    with locked(tmp_path / "run"):
        mp.spawn(worker, args=(tmp_path,), nprocs=2)
    answers = [False, False, True, False]
    assert torch.load(tmp_path / "0.pt") == (answers, 7, "UserError", ["not this", 3])
    assert torch.load(tmp_path / "1.pt") == (answers, 7, "SystemExit", ["2", 3])
