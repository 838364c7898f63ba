"""A device: tensors that are sent to it, and what is told if it has no memory left."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from vlm.distributed import first_to_tell
from vlm.errors import LAST_WORDS, UserError, memory_ran_out

CLOSE = "close what else uses the device, or take one with more memory"
LESS = f"{CLOSE}; where the command has --load-in, 4bit makes the language model smaller"


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`. The processor goes on while a CUDA device copies it, if it lies in pinned memory.

    Other devices are waited for. torch's copy to an Apple GPU reads the host's memory when that may belong to another
    tensor already, and gives wrong numbers in silence (pytorch issues 139550 and 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


@contextmanager
def enough_memory(doing: Callable[[], str], remedy: Callable[[], str]) -> Iterator[None]:
    """If memory runs out inside, raise a `UserError` that says where, why, and what to do.

    doing: such as "in step 7 (64 images)"; remedy: the flag that makes it smaller, and what is on the disk. Both are
    asked when it has happened. Of several ranks, which often run out together, the first one tells.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory_ran_out(error):
            raise
        if not first_to_tell("out-of-memory"):
            time.sleep(LAST_WORDS)  # a launcher ends the others as soon as one has left: the first one tells before
            raise SystemExit(2) from error
        raise UserError(f"out of memory {doing()} ({reason(error)}): {remedy()}") from error


def reason(error: BaseException) -> str:
    """What an error of memory says, without torch's advice on its own settings.

    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ... Process 7 has ..." -> its first two sentences
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(re.split(r"(?<=[.)]) ", lines[0])[:2]).rstrip(".")
