"""`vlm export --format gguf`: which tokenizers llama.cpp has, and which ones are refused."""

import json

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers import models as bpe

from vlm.apps.export.llama_cpp import vocabulary
from vlm.errors import UserError


def tokenizer_json(pre, ignore_merges=False, normaliser=None, merges=True) -> dict:
    pairs = [("a", "b")] if merges else []
    words = Tokenizer(bpe.BPE({"a": 0, "b": 1, "ab": 2}, pairs, ignore_merges=ignore_merges))
    words.pre_tokenizer = pre
    if normaliser is not None:
        words.normalizer = normaliser
    return json.loads(words.to_str())


def sequence(digits: str):
    """The rules of Llama 3 and Qwen, which differ in how they cut numbers."""
    rule = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits
    rule += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(rule), "isolated", False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS])


def test_rules_are_known_by_what_they_do():
    assert vocabulary.rules_of(tokenizer_json(WORDS)) == "gpt-2"
    assert vocabulary.rules_of(tokenizer_json(SMOLLM)) == "smollm"
    assert vocabulary.rules_of(tokenizer_json(sequence(r"\p{N}{1,3}"), ignore_merges=True)) == "llama-bpe"
    assert vocabulary.rules_of(tokenizer_json(sequence(r"\p{N}"), normaliser=normalizers.NFC())) == "qwen2"


@pytest.mark.parametrize(
    "stored, message",
    [
        (tokenizer_json(sequence(r"\p{N}{1,4}"), True), r"cuts words by rules of its own \(Split "),
        (tokenizer_json(sequence(r"\p{N}{1,3}")), "cuts words as llama-bpe does, but its ignore_merges is False"),
        (tokenizer_json(pre_tokenizers.Metaspace()), "cuts words by rules of its own"),
        (tokenizer_json(pre_tokenizers.ByteLevel(add_prefix_space=True)), "cuts words by rules of its own"),
        (tokenizer_json(WORDS, merges=False), "has no merges"),
        (tokenizer_json(WORDS, normaliser=normalizers.Lowercase()), r"changes text first \(Lowercase\)"),
    ],
)
def test_other_rules_are_refused(stored, message):
    with pytest.raises(UserError, match=f"llama.cpp has no tokenizer like this one, which {message}"):
        vocabulary.rules_of(stored)
