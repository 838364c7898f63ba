"""Number formats: bf16 on devices that are fast at it, 4 and 8 bits by bitsandbytes."""

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from vlm.errors import UserError

Device = str | torch.device | None  # None: the GPU if there is one, else the CPU


def default_dtype(device: Device = None) -> torch.dtype:
    """bfloat16 if the device computes it fast, else float32.

    On a CPU without AVX512-BF16, AMX or Arm's bf16 instructions, bf16 products are emulated, up to 60 times slower.
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        fast = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:  # torch before 2.11 has these two alone
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if kind == "cpu" else ()
        fast = any(getattr(torch.cpu, name, bool)() for name in names)
    return torch.bfloat16 if fast else torch.float32


def chosen_device(name: str | None, local_rank: int | None = None) -> torch.device:
    """The device that `--device` names, or the GPU if there is one.

    local_rank: of this process among several on the machine; each takes the GPU of that number, unless one is named.
    Raises: UserError if there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UserError(f"--device {name}: this is no device; give cpu, cuda or mps") from None
    if device.type == "cuda":
        return _chosen_gpu(device, name, local_rank)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: there is no such device here; give cpu")
    if device.type not in ("cpu", "mps"):
        raise UserError(f"--device {name}: give cpu, cuda or mps")
    return device


def _chosen_gpu(device: torch.device, name: str | None, local_rank: int | None) -> torch.device:
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: there is no CUDA device here; give cpu")
    count = torch.cuda.device_count()
    if device.index is None and local_rank is not None:
        if local_rank >= count:
            raise UserError(f"process {local_rank} of this machine has no GPU of its own: launch {count} processes")
        device = torch.device("cuda", local_rank)
    if device.index is not None:
        if device.index >= count:
            raise UserError(f"--device {name}: there are {count} CUDA devices here; give cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(device)
    return device


def chosen_dtype(precision: str | None, device: Device = None) -> torch.dtype:
    """The dtype that `--precision` names, "fp32" or "bf16"; without it `default_dtype`."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return default_dtype(device) if precision is None else named[precision]


def check_place(load_in: str | None, name: str | None, device: torch.device) -> None:
    """Raise a UserError if `--device NAME`, which is `device`, is not where `quantised` puts a model."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    if load_in and name and device.type != place:
        where = {"cuda": "GPU", "cpu": "CPU"}[place]
        raise UserError(f"--load-in puts the model on the {where}: leave out --device {name}, or --load-in")


def quantised(load_in: str, dtype: torch.dtype, keep: Sequence[str] = ("lm_head",)) -> dict:
    """Keyword arguments of from_pretrained that quantise with bitsandbytes; `UserError` if it is not installed.

    load_in: "4bit" or "8bit". keep: modules that stay as they are.
    """
    if load_in not in ("4bit", "8bit"):
        raise UserError(f"cannot load in {load_in!r}: give 4bit or 8bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("loading in 4 or 8 bits needs bitsandbytes: pip install -e '.[quant]'")
    from transformers import BitsAndBytesConfig

    if load_in == "4bit":
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    else:
        settings = {"load_in_8bit": True}
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    config = BitsAndBytesConfig(**settings, llm_int8_skip_modules=list(keep))
    return {"quantization_config": config, "device_map": {"": place}}


def keep_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first forward pass, which it does on AVX512-BF16 CPUs.

    It would save them wrong afterwards, and fail on layers narrower than a block.
    """
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
