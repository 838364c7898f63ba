"""What the processes of a run share: values that all agree on, and rows that gradients pass through."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vlm.errors import UserError

GRACE = 3.0  # seconds between the first rank that runs out of time and the last one


def join_processes(minutes: float) -> torch.device:
    """Join the processes that torchrun or SLURM started, if there are several; return this one's GPU, or the CPU.

    minutes: after which a collective that some rank has not joined is given up.
    """
    on_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=minutes))
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


@contextmanager
def late_ranks_named(minutes: float, kept: str = "the last checkpoint is whole") -> Iterator[None]:
    """If a collective inside runs out of time, say once which ranks did not come, and end the process with 1.

    minutes: the time of a collective. kept: what is on the disk. Both are for the message.
    NCCL's own watchdog ends a process of a GPU, with its rank.
    """
    try:
        yield
    except RuntimeError as error:
        if not (active() and re.search("timed? ?out", str(error), re.IGNORECASE)):
            raise
        present = _present()
        if rank() == min(present):
            late = [str(number) for number in range(world_size()) if number not in present]
            who = f"rank {', '.join(late)}" if late else "another rank"
            words = f"rank {rank()} waited {minutes:g} minutes for {who}, which hangs or is too slow"
            print(f"error: {words}: {kept}; see --timeout", file=sys.stderr, flush=True)
        raise SystemExit(1) from error


def _present() -> list[int]:
    """The ranks that ran out of time as this one did, within a few seconds of it; the others are late."""
    own = rank()
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=GRACE))
        store.set(f"timed-out/{own}", "1")
        time.sleep(GRACE)
        return [number for number in range(world_size()) if number == own or store.check([f"timed-out/{number}"])]
    except RuntimeError:  # the store is rank 0's, which does not answer
        return [number for number in range(world_size()) if number]


def active() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def first_to_tell(what: str) -> bool:
    """Whether no other rank has asked this before: what befalls all ranks at once is told by one of them."""
    if not active():
        return True
    try:
        return dist.distributed_c10d._get_default_store().add(f"told/{what}", 1) == 1
    except RuntimeError:  # the store is rank 0's, which has ended, and has told why
        return False


def barrier() -> None:
    if active():
        dist.barrier()


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, outside autograd; in one process the tensor itself."""
    if active():
        tensor = tensor.detach().contiguous().clone()
        dist.all_reduce(tensor)
    return tensor


def all_rows(tensor: torch.Tensor) -> torch.Tensor:
    """[B, ...] of each rank, equal B -> [ranks * B, ...] in rank order, outside autograd; no wait for the device."""
    if not active():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


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
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def on_main(function: Callable[[], Any]) -> Any:
    """Call `function` on rank 0 and return its result on every rank.

    Raises: UserError on rank 0 if `function` does, SystemExit(2) on the others: a user reads one line, not one a rank.
    """
    value = problem = None
    if is_main():
        try:
            value = function()
        except UserError as error:
            problem = error
    value, failed = from_main((value, problem is not None))
    if failed:
        raise problem or SystemExit(2)
    return value


class AnyRank:
    """Tells every rank, in the same call, whether any of them has raised its flag.

    The answer of a call is the sum that the call before started: it has long arrived, so no rank waits for its device.
        call            1      2      3
        rank 1's flag   True   False  False
        every answer    False  True   False
    """

    def __init__(self, device: torch.device):
        on_gpu = device.type == "cuda"
        self.device, self.answer, self.on_gpu = device, torch.zeros(1, pin_memory=on_gpu), on_gpu
        self.copied = torch.cuda.Event() if on_gpu else None

    def __call__(self, flag: bool) -> bool:
        if self.copied:
            self.copied.synchronize()
        raised = bool(self.answer)
        raised_now = all_sum(torch.full((1,), float(flag), device=self.device))
        self.answer.copy_(raised_now, non_blocking=self.on_gpu)  # another device than CUDA has no event to wait for
        if self.copied:
            self.copied.record()
        return raised


# torch's all_gather has no backward pass of its own.
class _GatherWithGradient(torch.autograd.Function):
    """y = the rows of all ranks. Every rank reads y, so dL/dx_r is rank r's rows of the sum over the ranks of dL/dy."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *gradients):
        whole = all_sum(gradients[0])  # [ranks * rows, ...]
        return whole[rank() * ctx.rows :][: ctx.rows]


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """[B, ...] of each rank, equal B -> [ranks * B, ...] in rank order, differentiable.

    The objective is taken to be the sum of the ranks' own objectives.
    """
    return _GatherWithGradient.apply(tensor) if active() else tensor
