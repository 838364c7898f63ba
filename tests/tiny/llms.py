"""Tiny random language models of three families, in folders as Hugging Face's."""

from collections.abc import Callable
from pathlib import Path

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

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen2.5's: it adds a system turn if the user gives none.
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
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def seeded(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """What `build` makes with this seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def byte_level(model: models.BPE) -> Tokenizer:
    """BPE whose letters are bytes, as GPT-2's, Llama 3's and Qwen's."""
    words = Tokenizer(model)
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    return words


def family_tokenizer(template: str, specials: list[str], end: str) -> PreTrainedTokenizerFast:
    """Trained on a few words, with control tokens and `<think>`, which is added but not special."""
    words = byte_level(models.BPE())
    words.train_from_iterator(TEXT * 9, trainers.BpeTrainer(vocab_size=330, initial_alphabet=ALPHABET))
    words.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    words.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    bos = "<|begin_of_text|>" if "<|begin_of_text|>" in specials else None
    if bos:
        words.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, words.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, bos_token=bos, model_max_length=512)
    tokenizer.chat_template = template
    return tokenizer


def write_family(folder: Path, family: str) -> Path:
    """A model of `family` with the chat template and the control tokens of that family."""
    config_class, model_class, template, specials, end = FAMILIES[family]
    tokenizer = family_tokenizer(template, specials, end)
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
    seeded(lambda: model_class(config), seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def letters() -> Tokenizer:
    """A token for every byte, behind ChatML's control tokens."""
    tokens = [*CHATML_TOKENS, *sorted(ALPHABET)]
    return byte_level(models.BPE({token: number for number, token in enumerate(tokens)}, []))


def words_of(text: str) -> Tokenizer:
    """Trained on `text`, so that its words are tokens, with ChatML's control tokens."""
    words = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(special_tokens=CHATML_TOKENS, initial_alphabet=ALPHABET)
    words.train_from_iterator([text], trainer)
    return words


def write_chatml_llama(folder: Path, words: Tokenizer, initializer_range: float) -> Path:
    """A two-layer Llama that speaks ChatML and has Qwen's image token; its weights are drawn from seed 0."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|image_pad|>"],
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    seeded(lambda: LlamaForCausalLM(config), seed=0).save_pretrained(folder)
    return folder
