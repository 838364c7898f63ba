"""Counts how often each step of a run waits for its device, on a CPU that plays the device.

Run by test_reads.py: reads.py OUT STAGES FLAGS of pretrain/run.py; prints one JSON list a ZeRO stage. A step's number
is of the reads since the step before it was recorded. A read is an operation whose result the host needs: of any tensor
but those that live on the host in a run on a GPU, the lengths of the captions and the flag that tells a run to stop.
So is DeepSpeed's own wait for all that the device was told.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from pretrain import train
from pretrain.run import parse

ops = torch.ops.aten
READS = {
    ops._local_scalar_dense.default, ops.nonzero.default, ops.is_nonzero.default, ops.masked_select.default,
    ops.equal.default, ops._unique2.default, ops.unique_dim.default, ops.unique_consecutive.default,
}  # fmt: skip
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}
on_host = WeakIdKeyDictionary()  # tensors that no device would hold
counted: list[int] = []
total = 0


def tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def count(func: Any, inputs: list[torch.Tensor]) -> None:
    global total
    by_mask = func is ops.index.Tensor and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in inputs[1:])
    if (func in READS or func in METHODS or by_mask) and not all(tensor in on_host for tensor in inputs):
        total += 1


class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = tensors((args, kwargs))
        count(func, inputs)
        result = func(*args, **(kwargs or {}))
        if inputs and all(tensor in on_host for tensor in inputs):  # what is computed of host tensors stays there
            for tensor in tensors(result):
                on_host[tensor] = True
        return result


class Methods(TorchFunctionMode):
    """Those that a CPU tensor does without an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        count(func, tensors(args))
        return func(*args, **(kwargs or {}))


class Batches(train.CaptionBatches):
    def __iter__(self):
        for batch in super().__iter__():
            on_host[batch["lengths"]] = True
            yield batch


class Recorder(train.Recorder):
    def add(self, *arguments):
        global total
        counted.append(total)
        total = 0
        super().add(*arguments)


class AnyRank(train.AnyRank):
    def __init__(self, device):
        super().__init__(device)
        on_host[self.answer] = True


def synchronize(*_):
    global total
    total += 1


get_accelerator().synchronize = synchronize
train.CaptionBatches, train.Recorder, train.AnyRank = Batches, Recorder, AnyRank
out, stages, flags = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
loop = train.loop


def counting_loop(*arguments):
    with Methods(), Operations():
        loop(*arguments)


train.loop = counting_loop
for stage in stages:
    counted.clear()
    train.train(parse([*flags, "--out", str(out / stage), "--zero", stage]))
    print(json.dumps({stage: counted}))
