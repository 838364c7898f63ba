"""A tiny random Llama in a GGUF file."""

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tiny.llms import ALPHABET, seeded


def write_gguf(path: Path, scale_rope: bool, words: str = "llama-bpe") -> LlamaForCausalLM:
    """Write a Llama as llama.cpp would: query and key rows interleaved, rotary factors as a tensor.

    words: by which rules text is cut.
    """
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if scale_rope:
        rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, initializer_range=0.2, rope_parameters=rope, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = seeded(lambda: LlamaForCausalLM(config), seed=0).eval()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, heads in (("q", 2), ("k", 1)):
        key = f"model.layers.0.self_attn.{name}_proj.weight"
        state[key] = state[key].reshape(heads, 2, 16, 64).swapaxes(1, 2).reshape(heads * 32, 64)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(300)
    alphabet = sorted(ALPHABET)
    tokens = ["<|begin_of_text|>", "<|eot_id|>", "<|reserved_special_token_0|>", *alphabet, alphabet[0] + alphabet[1]]
    tokens += [f"unused{i}" for i in range(300 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 297)
    writer.add_token_merges([f"{alphabet[0]} {alphabet[1]}"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}")
    layer = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm"}  # fmt: skip
    names = {f"blk.0.{a}": f"model.layers.0.{b}" for a, b in layer.items()}
    names |= {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for short, name in names.items():
        writer.add_tensor(f"{short}.weight", np.ascontiguousarray(state[f"{name}.weight"]))
    if scale_rope:
        plain = 1 / 10000 ** (torch.arange(0, 32, 2) / 32)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
