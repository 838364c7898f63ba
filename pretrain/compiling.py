"""--compile: torch.compile for the blocks of both towers."""

import sys
from collections.abc import Callable

import torch
from torch.fx.experimental import _config as shape_guards

from vlm.distributed import is_main
from vlm.encoders.levljepa import Encoder
from vlm.run.compiler import lacking_anywhere


def compiles_fast(device: torch.device) -> bool:
    """Whether a run on this device is compiled unless told otherwise: on GPUs, if nothing lacks; collective.

    On CPUs it is not: minutes of compilation for a few percent. What a GPU's machine lacks is told in a line on stderr.
    """
    if device.type != "cuda":
        return False
    lack = lacking_anywhere(device)
    if lack and is_main():
        print(f"the towers run uncompiled: {lack}", file=sys.stderr)
    return lack is None


def several_shapes(rows: int, micro_batch_size: int, several_crops: bool = False) -> bool:
    """Whether one step calls the vision blocks with several shapes: global and local crops, or a shorter last piece.

    rows: of this rank; micro_batch_size: of them at a time, 0 for all.
    """
    return several_crops or (0 < micro_batch_size < rows and rows % micro_batch_size > 0)


def compile_towers(encoder: Encoder, shapes_vary: bool = False, backend: str | Callable = "inductor") -> None:
    """Let torch compile each block of the towers when it is first called; names of weights stay, as do the modules.

    Blocks of one tower share one compilation, so that it takes no longer for a deep one. Caption blocks get groups of
    any length, as one kernel with a free length; heads and loss, whose BatchNorm sends messages, stay as they are.

    shapes_vary: of the images, see `several_shapes`. Blocks are then compiled for any shape at once. Else torch would
    make a graph of the first shape and, at the second, one of any shape, which also takes the first: a piece that is
    computed again in the backward pass could meet another graph than in the forward pass, and fail (pytorch issue
    166926).
    """
    # Of any length also if the first group has as many rows as tokens: torch would take the two for one number.
    shape_guards.use_duck_shape = False
    for block in encoder.vision.blocks:
        block.compile(backend=backend, dynamic=True if shapes_vary else None)
    for block in encoder.text.encoder.h:
        block.compile(backend=backend, dynamic=True)
