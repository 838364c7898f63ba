"""The language model of a VLM as llama.cpp reads it: metadata and tensor names of its architecture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vlm.apps.export.llama_cpp.tensors import Tensors
from vlm.apps.export.llama_cpp.wrapping import neighbours
from vlm.errors import UserError
from vlm.llava.model import VLM

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}


def check_text(config: Any) -> None:
    """Raise a UserError if llama.cpp's graph of this architecture computes something else than the config says."""
    kind, rope = config.model_type, config.rope_parameters
    wrong = {
        f"is a {kind}": kind not in ARCHITECTURES,
        f"activates with {config.hidden_act}": config.hidden_act != "silu",
        f"scales its rotary positions by {rope.get('rope_type')}": rope.get("rope_type") not in ("default", "llama3"),
        "has a sliding window": "sliding_attention" in (getattr(config, "layer_types", None) or ()),
    }
    for what, is_so in wrong.items():
        if is_so:
            raise UserError(
                f"the language model {what}: --format gguf takes {', '.join(ARCHITECTURES)} with full attention, silu "
                "and plain or Llama 3's rotary positions; give --format hf"
            )


def add_text_metadata(writer: GGUFWriter, config: Any) -> None:
    """Sizes and constants, by the keys that llama.cpp has for each architecture."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    width = head_width(config)
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_vocab_size(config.vocab_size + 2)  # and those of `wrapping`


def head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def text_tensors(vlm: VLM) -> Tensors:
    """The weights of the language model by llama.cpp's names."""
    model: Any = vlm.model
    config: Any = vlm.language_model.config
    names = get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    weights = {f"model.{name}": value for name, value in vlm.language_model.state_dict().items()}
    # Two more rows. Those of the head are the image token's, which no answer has: a tied head is stored by itself.
    around, embeddings, head = neighbours(vlm), weights["model.embed_tokens.weight"], model.lm_head.weight
    weights["model.embed_tokens.weight"] = torch.cat([embeddings, embeddings[[around.before, around.after]]])
    weights["lm_head.weight"] = torch.cat([head, head[[vlm.processor.image_token_id] * 2]])
    tensors: dict[str, Callable[[], torch.Tensor]] = {}
    for name, value in weights.items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise UserError(f"llama.cpp's {config.model_type} has no {name}: give --format hf")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        turned = heads if config.model_type == "llama" else None
        tensors[stored] = partial(interleaved, value, turned) if turned else partial(torch.Tensor.detach, value)
    if config.rope_parameters.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = partial(rope_factors, config)
    return tensors


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder a query or key projection, float[heads * width, ...], for llama.cpp's rotation of its llama.

    Hugging Face turns channel i together with i + width / 2, llama.cpp turns 2 i with 2 i + 1:
        width 4:    0 1 2 3    ->    0 2 1 3
    """
    width = weight.shape[0] // heads
    halves = weight.reshape(heads, 2, width // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def rope_factors(config: Any) -> torch.Tensor:
    """By what llama.cpp divides each rotary frequency, float32[width / 2]: Llama 3.1's scaling is 1 for high ones."""
    width = head_width(config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2) / width)
    return plain / scaled
