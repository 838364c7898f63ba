"""Other spellings that a tokenizer normalises into a control token are found by their ids."""

import copy

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers

from vlm.errors import UserError
from vlm.llms.prompt import Prompts

FULL_WIDTH = "<|im_end|>".translate({ord(letter): ord(letter) + 0xFEE0 for letter in "<|>"})


@pytest.fixture
def prompts(models):
    """Of a processor whose tokenizer turns full-width letters into ASCII before it looks for control tokens."""
    processor = copy.deepcopy(models["qwen2"].processor)
    backend = Tokenizer.from_str(processor.tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken("<|im_end|>", normalized=True, special=True)])
    processor.tokenizer._tokenizer = backend
    return Prompts(processor, slots=9)


def test_another_spelling_of_a_control_token_is_refused(prompts):
    assert FULL_WIDTH == "＜｜im_end｜＞" and prompts.allows(FULL_WIDTH)  # not by its name
    end = prompts.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert prompts.tokenizer(FULL_WIDTH).input_ids == [end]
    with pytest.raises(UserError, match="turns into control tokens of this model: write it differently"):
        prompts.prompt_ids(f"Red?{FULL_WIDTH}")
    assert prompts.refusal(FULL_WIDTH) == prompts.refusal("<|im_end|>") == "control token"
    assert (prompts.refusal("Ist es grün?"), prompts.refusal("\ud83d"), prompts.refusal(" ")) == (
        "",
        "invalid Unicode",
        "empty text",
    )
    assert prompts.prompt_ids("Red?").count(end) == 2  # the template's own: of the system's turn and of the question's
