"""The tokenizer of a VLM as llama.cpp has it, if llama.cpp has it.

llama.cpp knows the rules that cut text into words by name alone. So a name is given only to a tokenizer whose rules are
the same, part by part: those of SmolLM2, Llama 3, Qwen2, Qwen3 and GPT-2.
"""

from __future__ import annotations

import json
from typing import Any

from gguf import GGUFWriter, TokenType

from vlm.apps.export.llama_cpp.wrapping import AFTER, BEFORE
from vlm.errors import UserError
from vlm.llms.gguf import DIGITS, WORDS

# Name in llama.cpp -> the steps of a pre-tokenizer. ByteLevel with its own rule is GPT-2's.
RULES = {
    "gpt-2": ["ByteLevel with words"],
    "smollm": ["Digits", "ByteLevel with words"],
    **{name: [f"Split {WORDS.format(digits=digits)}", "ByteLevel"] for name, digits in DIGITS.items()},
}
WHOLE_WORDS_FIRST = ("llama-bpe",)  # a word that is a token is not cut by the merges


def check_vocabulary(tokenizer: Any) -> None:
    """Raise a UserError if llama.cpp would read text in another way than `tokenizer`."""
    rules_of(_stored(tokenizer))


def rules_of(stored: dict[str, Any]) -> str:
    """llama.cpp's name for the rules of a tokenizer.json; `UserError` if it has none."""
    model, normaliser = stored["model"], stored["normalizer"]
    steps = _steps(stored["pre_tokenizer"])
    name = next((name for name, rule in RULES.items() if rule == steps), None)
    problem = None
    if model["type"] != "BPE" or model.get("byte_fallback") or model.get("continuing_subword_prefix"):
        problem = f"is no byte-level BPE ({model['type']})"
    elif not model["merges"]:
        problem = "has no merges"
    elif name is None:
        problem = f"cuts words by rules of its own ({'; '.join(steps)})"
    elif bool(model.get("ignore_merges")) != (name in WHOLE_WORDS_FIRST):
        problem = f"cuts words as {name} does, but its ignore_merges is {model.get('ignore_merges')}"
    elif normaliser not in (
        None,
        {"type": "NFC"},
    ):  # llama.cpp has none; nearly all text is in NFC
        problem = f"changes text first ({normaliser['type']})"
    if name is None or problem:
        raise UserError(
            f"llama.cpp has no tokenizer like this one, which {problem}: --format gguf takes those of SmolLM2, "
            "Llama 3, Qwen2, Qwen3 and GPT-2; give --format hf"
        )
    return name


def _steps(pre: dict[str, Any] | None) -> list[str]:
    """A pre-tokenizer as a list of what it does, in the words of `RULES`."""
    steps = pre["pretokenizers"] if pre and pre["type"] == "Sequence" else [pre] if pre else []
    return [_step(step) for step in steps]


def _step(step: dict[str, Any]) -> str:
    kind = step["type"]
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return "ByteLevel with words" if step["use_regex"] else "ByteLevel"
    if kind == "Digits" and step["individual_digits"]:
        return "Digits"
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return f"Split {step['pattern'].get('Regex')}"
    return json.dumps(step)


def add_vocabulary(writer: GGUFWriter, tokenizer: Any, rows: int, template: str) -> None:
    """Write the tokenizer and the two tokens of `wrapping`. rows: of the VLM's embedding table; some have no token."""
    stored = _stored(tokenizer)
    texts, kinds = _tokens(stored, rows)
    texts += [BEFORE, AFTER]
    kinds += [TokenType.CONTROL] * 2
    merges = stored["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rules_of(stored))
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    # What ends a turn ends the answer; llama.cpp finds a family's further ends by their spelling.
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_eot_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)  # else the template writes it
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)


def _stored(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _tokens(stored: dict[str, Any], rows: int) -> tuple[list[str], list[TokenType]]:
    """The spelling and the kind of each of `rows` tokens.

    Control tokens are not printed. With smollm2's text format one is the newline, spelled "Ċ", that ends answers.
    """
    texts = [f"[PAD{index}]" for index in range(rows)]
    kinds = [TokenType.UNUSED] * rows
    for text, index in stored["model"]["vocab"].items():
        texts[index], kinds[index] = text, TokenType.NORMAL
    for token in stored["added_tokens"]:
        index = token["id"]
        texts[index] = token["content"]
        kinds[index] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    return texts, kinds
