"""GGUF files as plain Hugging Face folders, converted once.

transformers reads a GGUF file in about 15 s for SmolLM2-135M: it parses the file's metadata in Python, again for each
of tokenizer, config and weights. The converted folder loads in a second. Weights are converted one by one, in
half precision where that holds what the file does.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vlm.directories import atomic_directory
from vlm.errors import UserError
from vlm.files import cache_folder, file_sha256, write_json
from vlm.llms.gguf_file import read_header
from vlm.reading import open_regular

# How Llama 3 and Qwen2 cut words, in their tokenizer.json; they differ in how many digits go together.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
SHARD_BYTES = 1_000_000_000  # of weights that are in memory before they are written
FORMAT = 3  # part of the folder's name: raise it when the conversion changes


def converted_gguf(file: Path, model_types: tuple[str, ...]) -> Path:
    """Give the folder with the model of `file` as plain safetensors, and its tokenizer; convert it first if need be.

    The name of the folder holds a hash of the file's content. Of several processes one converts and the others wait.
    Raises: UserError if the file is missing, is not GGUF, or is none of `model_types`; or the folder cannot be written.
    """
    folder = cache_folder("llm") / f"{file.stem}-{_content_hash(file)}-{FORMAT}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                _convert(file, folder, model_types)
    except OSError as error:
        raise UserError(
            f"cannot convert {file} into {folder} ({error}): set LEVLM_CACHE to a writable folder"
        ) from error
    return folder


def check_gguf(file: Path) -> None:
    """Raises: UserError if the file is missing, or is not GGUF."""
    try:
        with open_regular(file) as stream:
            if stream.read(4) != b"GGUF":
                raise UserError(f"{file} is not a GGUF file: download it again")
    except OSError as error:
        raise UserError(f"cannot read the language model {file}: {error.strerror}") from None


def _content_hash(file: Path) -> str:
    check_gguf(file)
    try:
        return file_sha256(file)[:12]
    except OSError as error:
        raise UserError(f"cannot read the language model {file}: {error.strerror}") from None


def _convert(file: Path, folder: Path, model_types: tuple[str, ...]) -> None:
    parent, name = str(file.absolute().parent), file.name  # not of a link's target: the hub's cache calls it a hash
    reader, parsed = read_header(file)
    if (kind := parsed["config"].get("model_type")) not in model_types:
        raise UserError(f"{file} is a {kind} model; supported are {', '.join(model_types)}")
    print(f"converting {file} once, into {folder}", file=sys.stderr)
    try:
        config: Any = AutoConfig.from_pretrained(parent, gguf_file=name)
        tokenizer: Any = AutoTokenizer.from_pretrained(parent, gguf_file=name)
        _restore_words(reader, tokenizer.backend_tokenizer)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        _restore_rope(file, reader, config)
        # A configuration that came from GGUF says that the model is quantised, and it would refuse to be loaded.
        config.__dict__.pop("quantization_config", None)
        config.architectures, config.dtype = [type(model).__name__], torch.float16
        with atomic_directory(folder) as partial:
            _write_weights(file, reader, parsed, model, partial)
            config.save_pretrained(partial)
            GenerationConfig.from_model_config(config).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except (UserError, OSError):
        raise
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise UserError(f"{file} cannot be converted ({error}): download it again, or give a model folder") from error


def _restore_words(reader: GGUFReader, tokenizer: Tokenizer) -> None:
    """Cut words as the file says (`tokenizer.ggml.pre`); transformers cuts those of every llama as GPT-2 does."""
    field = reader.get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    elif field is not None and field.contents() in DIGITS:
        split = pre_tokenizers.Split(Regex(WORDS.format(digits=DIGITS[field.contents()])), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])


def _write_weights(file: Path, reader: GGUFReader, parsed: dict, model: PreTrainedModel, folder: Path) -> None:
    """Convert tensor by tensor into shards. model: without memory, for the names.

    Raises: UserError if a tensor is missing.
    """
    processor = TENSOR_PROCESSORS.get(model.config.model_type, TensorProcessor)(config=parsed["config"])
    names = get_gguf_hf_weights_map(model, processor)
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}  # tensor -> its file
    total = shards = 0

    def write() -> None:
        nonlocal shard, shards
        shards += 1
        places.update(dict.fromkeys(shard, f"model-{shards:05d}.safetensors"))
        save_file(shard, folder / f"model-{shards:05d}.safetensors", {"format": "pt"})
        shard = {}

    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)  # float32
        found = processor.process(weights=weights, name=tensor.name, tensor_key_mapping=names, parsed_parameters=parsed)
        if found.name in names:
            weights = np.require(found.weights, requirements="W")  # of an fp32 file: mapped from it, copied here
            shard[names[found.name]] = value = _halved(torch.from_numpy(weights), tensor.tensor_type.name)
            total += value.nbytes
        if sum(value.nbytes for value in shard.values()) >= SHARD_BYTES:
            write()
    if shard:
        write()
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if missing := sorted(model.state_dict().keys() - places.keys() - tied):
        raise UserError(f"{file} lacks {missing[0]} ({len(missing)} tensors in all): download it again")
    if shards == 1:
        (folder / "model-00001.safetensors").rename(folder / "model.safetensors")
    else:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_json(folder / "model.safetensors.index.json", index)


def _halved(weights: torch.Tensor, kind: str) -> torch.Tensor:
    """The smallest plain form that holds what the file does: bf16 and fp16 as they are, fp32 too.

    A quantised weight is a product of a short whole number and a scale: fp16 holds it to 1 part in 4,096, which is a
    hundredth of what 8 bits have lost.
    """
    if kind == "BF16":
        return weights.bfloat16()
    half = weights.half()
    if kind == "F32" or not half.isfinite().all():
        return weights
    return half


def _restore_rope(file: Path, reader: GGUFReader, config: Any) -> None:
    """Put back how Llama 3.1 and later scale their rotary frequencies: transformers skips GGUF's tensor of factors."""
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    if "rope_freqs.weight" not in tensors:
        return
    factors = torch.tensor(tensors["rope_freqs.weight"])  # [head width / 2], 1 for frequencies that stay
    width = 2 * len(factors)
    theta = config.rope_parameters["rope_theta"]
    plain = 1 / theta ** (torch.arange(0, width, 2) / width)  # theta^(-2i / width), as in RoFormer
    in_all_releases = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    scaling = {"rope_type": "llama3", "rope_theta": theta, "factor": float(factors.max())}
    config.rope_parameters = scaling | in_all_releases
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    if not torch.allclose(scaled, plain / factors, rtol=1e-3):
        raise UserError(f"{file} scales its rotary positions in an unknown way: give the model's Hugging Face folder")
