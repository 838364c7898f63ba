"""BatchNorm over all ranks against torch's BatchNorm1d on the whole batch."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from pretrain.batchnorm import GlobalBatchNorm1d

ROWS = [(0, 5), (5, 12)]  # two ranks with unequal batches


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64) * 4 + 100
    return x, torch.randn(12, 3, generator=generator, dtype=torch.float64)


def run(norm, x, target):
    x = x.clone().requires_grad_()
    y = norm(x)
    ((y - target) ** 2).sum().backward()
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


def worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x, target = data()
    rows = slice(*ROWS[rank])
    y, dx, dw, db, mean, var = run(GlobalBatchNorm1d(3).double(), x[rows], target[rows])
    dist.all_reduce(dw)
    dist.all_reduce(db)
    torch.save((y, dx, dw, db, mean, var), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_unequal_ranks_equal_batchnorm_on_the_whole_batch(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    expected = run(nn.BatchNorm1d(3).double(), *data())
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for part in range(2):
        assert torch.allclose(torch.cat([rank[part] for rank in ranks]), expected[part], rtol=0, atol=1e-10)
    for rank in ranks:
        for got, want in zip(rank[2:], expected[2:]):
            assert torch.allclose(got, want, rtol=0, atol=1e-10)


def test_one_process_is_torchs_own():
    ours, theirs = run(GlobalBatchNorm1d(3).double(), *data()), run(nn.BatchNorm1d(3).double(), *data())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
