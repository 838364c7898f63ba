"""Parts that several tests share, small enough to be made anew in every session."""

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen2.5's: a system turn of its own where the user gives none.
QWEN2 = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' or message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# As Llama 3.2's: it writes the beginning-of-text token and today's date, and takes the system turn off the list.
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system_message }}"
    "{{- '<|eot_id|>' }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
# As Qwen3's: a full conversation shows an empty thought before the answer, a prompt only with thinking switched off.
QWEN3 = (
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
HEADERS = [
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_0|>",
]
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA3, HEADERS, "<|eot_id|>"),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, QWEN2, CHATML_TOKENS, "<|im_end|>"),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, QWEN3, CHATML_TOKENS, "<|im_end|>"),
}
TEXT = ["What color is the star? red", "Answer the question using a single word or phrase.", "You are helpful."]


def tiny_tokenizer(template: str | None, specials: list[str], end: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on a few words, with control tokens and `<think>`, which is added but not special."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(TEXT * 9, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    words.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    words.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    bos = "<|begin_of_text|>"
    if bos in specials:
        words.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, words.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=end, bos_token=bos if bos in specials else None, model_max_length=512
    )
    tokenizer.chat_template = template
    return tokenizer


def write_llm(folder: Path, family: str) -> Path:
    """A random model of `family` in a Hugging Face folder."""
    config_class, model_class, template, specials, end = FAMILIES[family]
    tokenizer = tiny_tokenizer(template, specials, end)
    config = config_class(
        vocab_size=len(tokenizer) + 8,  # like Qwen's spare rows
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        tie_word_embeddings=family != "llama",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llm_folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("llms")
    return {family: write_llm(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory) -> Path:
    """A saved VLM folder: a random 2-layer Llama with a byte tokenizer behind a random ViT with 16 image tokens."""
    from vlm.llava.assembly import assemble
    from vlm.llms.load import load_llm

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
