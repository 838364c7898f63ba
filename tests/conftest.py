"""Parts that several tests share, small enough to be made anew in every session."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlm.encoder import new_encoder
from vlm.encoder_config import EncoderConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory) -> Path:
    """A saved VLM folder: a random 2-layer Llama with a byte tokenizer behind a random ViT with 16 image tokens."""
    from vlm.assemble import assemble
    from vlm.llm import load_llm

    root = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
    words = Tokenizer(models.BPE({token: i for i, token in enumerate(specials + alphabet)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|image_pad|>"],
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(root / "llm")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(root / "llm")
    encoder = EncoderConfig(
        image_size=24, patch_size=6, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
        text_heads=1, vocab_size=32, positions=16, embed_dim=8, projector_width=8, projector_depth=1,
    )  # fmt: skip
    vlm = assemble(new_encoder(encoder, seed=0).eval().requires_grad_(False), load_llm(str(root / "llm")))
    for weight in vlm.connector.parameters():  # large enough for the picture to change answers
        weight.data.mul_(20)
    vlm.save(root / "run/vlm")
    return root / "run/vlm"
