"""--compile: torch.compile for the blocks of both towers."""

from importlib.util import find_spec

import torch

from vlm.encoders.levljepa import Encoder


def compiles_fast(device: torch.device) -> bool:
    """Whether a run on this device is compiled unless told otherwise: on GPUs, if Triton makes kernels for them.

    On CPUs it is not: minutes of compilation for a few percent.
    """
    return device.type == "cuda" and find_spec("triton") is not None


def compile_towers(encoder: Encoder, backend: str = "inductor") -> None:
    """Let torch compile each block of the towers when it is first called; names of weights stay, as do the modules.

    Blocks of one tower share one compilation, so that it takes no longer for a deep one. Caption blocks get groups of
    any length, as one kernel with a free length; heads and loss, whose BatchNorm sends messages, stay as they are.
    """
    for block in encoder.vision.blocks:
        block.compile(backend=backend)
    for block in encoder.text.encoder.h:
        block.compile(backend=backend, dynamic=True)
