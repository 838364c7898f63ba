"""GGUF files as plain Hugging Face folders, converted once.

transformers reads a GGUF file in about 15 s for SmolLM2-135M: it parses the file's metadata in Python, once for the
tokenizer, twice for config and weights. The converted folder loads in a second.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vlm.errors import UserError
from vlm.files import atomic_directory, file_sha256

FORMAT = 1  # part of the folder's name: raise it when the conversion changes


def converted_gguf(file: Path, model_types: tuple[str, ...]) -> Path:
    """Give the folder with the model of `file` as float32 safetensors, and its tokenizer; convert it first if need be.

    The name of the folder holds a hash of the file's content. Of several processes one converts and the others wait.
    Raises: UserError if the file is missing, is not GGUF, or is none of `model_types`; or the folder cannot be written.
    """
    cache = Path(os.environ.get("LEVLM_CACHE") or Path.home() / ".cache" / "levlm")
    folder = cache / "llm" / f"{file.stem}-{_content_hash(file)}-{FORMAT}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                print(f"converting {file} once, into {folder}", file=sys.stderr)
                _convert(file, folder, model_types)
    except OSError as error:
        raise UserError(
            f"cannot convert {file} into {folder} ({error}): set LEVLM_CACHE to a writable folder"
        ) from error
    return folder


def _content_hash(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            if stream.read(4) != b"GGUF":
                raise UserError(f"{file} is not a GGUF file: download it again")
        return file_sha256(file)[:12]
    except OSError as error:
        raise UserError(f"cannot read the language model {file}: {error.strerror}") from None


def _convert(file: Path, folder: Path, model_types: tuple[str, ...]) -> None:
    parent, name = str(file.resolve().parent), file.name
    try:
        found = AutoConfig.from_pretrained(parent, gguf_file=name).model_type
        if found not in model_types:
            raise UserError(f"{file} is a {found} model; supported are {', '.join(model_types)}")
        tokenizer: Any = AutoTokenizer.from_pretrained(parent, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(parent, gguf_file=name, dtype=torch.float32)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise UserError(f"{file} cannot be converted ({error}): download it again, or give a model folder") from error
    _restore_rope(file, model)
    # A model that came from GGUF says that it is quantised, and would refuse to be saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    with atomic_directory(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def _restore_rope(file: Path, model: PreTrainedModel) -> None:
    """Put back how Llama 3.1 and later scale their rotary frequencies: transformers skips GGUF's tensor of factors."""
    from gguf import GGUFReader

    tensors = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    if "rope_freqs.weight" not in tensors:
        return
    factors = torch.tensor(tensors["rope_freqs.weight"])  # [head width / 2], 1 for frequencies that stay
    config, width = model.config, 2 * len(factors)
    theta = config.rope_parameters["rope_theta"]
    plain = 1 / theta ** (torch.arange(0, width, 2) / width)  # theta^(-2i / width), as in RoFormer
    in_all_releases = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    scaling = {"rope_type": "llama3", "rope_theta": theta, "factor": float(factors.max())}
    config.rope_parameters = scaling | in_all_releases
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    if not torch.allclose(scaled, plain / factors, rtol=1e-3):
        raise UserError(f"{file} scales its rotary positions in an unknown way: give the model's Hugging Face folder")
