"""Ranks, what they agree on, and collectives that gradients pass through. All of it is a no-op in one process."""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from vlm.errors import UserError


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


def from_main(value: Any) -> Any:
    """Rank 0's `value`, on every rank."""
    box = [value]
    if active():
        dist.broadcast_object_list(box)
    return box[0]


def all_items(items: list) -> list:
    """Every rank's picklable `items`, one list in rank order, on every rank."""
    if not active():
        return items
    parts = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def on_main(function: Callable[[], Any]) -> Any:
    """What `function()` gives on rank 0, on every rank. Its `UserError` is raised there; the others exit with 2."""
    value = problem = None
    if is_main():
        try:
            value = function()
        except UserError as error:
            problem = error
    value, failed = from_main((value, problem is not None))
    if failed:  # one line, not one a rank
        raise problem or SystemExit(2)
    return value


class AnyRank:
    """Whether any rank has raised its flag. The answer comes one call late, when it has long been summed.

    So every rank gets the same answer in the same call, and none waits for its device.
    """

    def __init__(self, device: torch.device):
        on_gpu = device.type == "cuda"
        self.device, self.answer = device, torch.zeros(1, pin_memory=on_gpu)
        self.copied = torch.cuda.Event() if on_gpu else None

    def __call__(self, flag: bool) -> bool:
        if self.copied:
            self.copied.synchronize()
        raised = bool(self.answer)
        self.answer.copy_(all_sum(torch.full((1,), float(flag), device=self.device)), non_blocking=True)
        if self.copied:
            self.copied.record()
        return raised


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
