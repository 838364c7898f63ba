"""Ranks, and collectives that gradients pass through. All of it is a no-op in one process."""

import os

import torch
import torch.distributed as dist


def active() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if active():
        dist.barrier()


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, outside autograd. In one process the tensor itself."""
    if active():
        tensor = tensor.detach().contiguous().clone()
        dist.all_reduce(tensor)
    return tensor


class _SumWithGradient(torch.autograd.Function):
    """c10d's all_reduce has no autograd formula: y = sum_r x_r is read by every rank, so dL/dx_r = sum_r dL/dy_r."""

    @staticmethod
    def forward(ctx, tensor):
        return all_sum(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return all_sum(gradient)


def sum_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, differentiable: the total objective is the sum of the ranks' objectives."""
    return _SumWithGradient.apply(tensor) if active() else tensor


class _GatherWithGradient(torch.autograd.Function):
    """y = cat_r x_r is read by every rank, so dL/dx_r = rank r's rows of sum_r' dL_r'/dy."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        return all_sum(gradient)[rank() * ctx.rows :][: ctx.rows]


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """[B, ...] of each rank, equal B -> [ranks * B, ...] in rank order, differentiable like `sum_with_gradient`."""
    return _GatherWithGradient.apply(tensor) if active() else tensor
