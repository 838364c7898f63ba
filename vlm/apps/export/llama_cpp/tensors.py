"""Tensors in GGUF: how each is stored, how they are written one by one, and whether a file holds those of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter, LlamaFileType, quants

from vlm.errors import UserError, writing

# Weights by their names in the file. They are read one at a time: in fp32 a model may not fit in memory.
Tensors = Mapping[str, Callable[[], torch.Tensor]]

FILE_TYPES = {"F32": LlamaFileType.ALL_F32, "F16": LlamaFileType.MOSTLY_F16, "Q8_0": LlamaFileType.MOSTLY_Q8_0}
BLOCK = 32  # neighbours in a row that share a scale in Q8_0
# The largest rounding error, as a share of the largest weight of a block: half a step of 127, and a scale in fp16.
ROUNDING = {Kind.F32: 0.0, Kind.F16: 2**-11, Kind.Q8_0: 0.5 / 127 + 2**-10}


def stored_as(name: str, shape: tuple[int, ...], quantise: str) -> Kind:
    """The number format of a tensor: matrices as asked, what llama.cpp adds or multiplies elementwise in fp32.

    A patch projection, float[width, 3, p, p], cannot be quantised, nor can rows that are no multiple of `BLOCK` long.
    """
    if quantise == "F32" or len(shape) < 2 or name.endswith("position_embd.weight"):
        return Kind.F32
    if quantise == "Q8_0" and len(shape) == 2 and shape[1] % BLOCK == 0:
        return Kind.Q8_0
    return Kind.F16


def file_size(tensors: Tensors, quantise: str) -> int:
    """The bytes of all tensors; metadata come on top."""
    return sum(_bytes(name, tuple(read().shape), quantise) for name, read in tensors.items())


def _bytes(name: str, shape: tuple[int, ...], quantise: str) -> int:
    bits = {Kind.F32: 32, Kind.F16: 16, Kind.Q8_0: 8 + 16 / BLOCK}[stored_as(name, shape, quantise)]
    return int(np.prod(shape) * bits / 8)


def write_tensors(writer: GGUFWriter, tensors: Tensors, quantise: str, file: Path) -> None:
    """Write the file of a writer that has its metadata, and close it.

    Raises: UserError if a weight is too large for fp16, or the file cannot be written.
    """
    for name, read in tensors.items():
        shape = tuple(read().shape)
        kind = stored_as(name, shape, quantise)
        size = _bytes(name, shape, quantise)
        if kind is Kind.Q8_0:  # the writer counts the bytes of a row
            shape = (shape[0], size // shape[0])
        dtype = {Kind.F32: np.float32, Kind.F16: np.float16, Kind.Q8_0: np.uint8}[kind]
        writer.add_tensor_info(name, shape, np.dtype(dtype), size, raw_dtype=kind)
    with writing(file):
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, read in tensors.items():
            weight = _values(read())
            kind = stored_as(name, weight.shape, quantise)
            if kind is not Kind.F32 and not np.abs(weight).max() <= 65504:
                raise UserError(f"the weights of {name} are too large for {kind.name}: give --quantise F32")
            writer.write_tensor_data(quants.quantize(weight, kind))
        writer.close()


def compare_tensors(file: Path, tensors: Tensors) -> float:
    """Read a file back -> the largest difference from the model's weights, as a share of its block's largest.

    Raises: UserError if a tensor is missing, too many, of another shape, or further off than its format rounds.
    """
    found: dict[str, Any] = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    if set(found) != set(tensors):
        raise UserError(f"{file.name} lacks or adds tensors: {sorted(set(found) ^ set(tensors))[:3]}: not exported")
    largest = 0.0
    for name, read in tensors.items():
        wanted, stored = _values(read()), found[name]
        weight = quants.dequantize(stored.data, stored.tensor_type).reshape(-1)
        if weight.size != wanted.size or tuple(stored.shape) != wanted.shape[::-1]:
            raise UserError(f"{name} in {file.name} has another shape than the model's: not exported")
        error, scale = _blocks(np.abs(weight - wanted.reshape(-1))), _blocks(np.abs(wanted.reshape(-1)))
        # 2^-24 is the smallest step of fp16.
        if not (error <= scale * ROUNDING[stored.tensor_type] + (2**-24 if ROUNDING[stored.tensor_type] else 0)).all():
            raise UserError(f"{name} in {file.name} differs from the model's: not exported")
        largest = max(largest, float((error / np.maximum(scale, 2**-14)).max()))
    return largest


def _values(weight: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(weight.detach().to("cpu", torch.float32).numpy())


def _blocks(values: np.ndarray) -> np.ndarray:
    """float32[n] -> the largest of each `BLOCK`, float32[ceil(n / BLOCK)]."""
    return np.pad(values, (0, -values.size % BLOCK)).reshape(-1, BLOCK).max(1)
