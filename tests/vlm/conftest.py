"""Tiny language models in the three families' styles, and an encoder, for the tests of assembly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from vlm.assemble import assemble
from vlm.encoder import new_encoder
from vlm.encoder_config import EncoderConfig
from vlm.llm import load_llm

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
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
HEADERS = [
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_0|>",
]
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA3, HEADERS, "<|eot_id|>"),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, QWEN2, CHATML, "<|im_end|>"),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, QWEN3, CHATML, "<|im_end|>"),
}
TEXT = ["What color is the star? red", "Answer the question using a single word or phrase.", "You are helpful."]


def tiny_tokenizer(template: str | None, specials: list[str], end: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on a few words, with control tokens and `<think>`, which is added but not special."""
    words = Tokenizer(BPE())
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
def encoder():
    """A random ViT with 9 patches behind another normalisation than CLIP's."""
    config = EncoderConfig(
        image_size=24, patch_size=8, vision_width=24, vision_layers=2, vision_heads=2, text_width=16, text_layers=1,
        text_heads=1, vocab_size=32, positions=16, embed_dim=8, projector_width=8, projector_depth=1,
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3),
    )  # fmt: skip
    encoder = new_encoder(config, seed=3).eval().requires_grad_(False)
    for parameter in encoder.vision.parameters():  # away from the initial zeros and ones
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return encoder


@pytest.fixture(scope="session")
def models(llm_folders, encoder):
    """One VLM a family; the connector is scaled so that the picture matters to a random LLM."""
    made = {family: assemble(encoder, load_llm(str(folder), torch.float32)) for family, folder in llm_folders.items()}
    for model in made.values():
        model.connector.linear_2.weight.data.mul_(20)
    return made


@pytest.fixture(scope="session")
def saved(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    for family, model in models.items():
        model.save(root / family)
    return root


@pytest.fixture(scope="session")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((70, 50), Image.Resampling.BICUBIC)
