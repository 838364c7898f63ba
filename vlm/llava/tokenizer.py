"""The tokenizer that a VLM is saved with: stock tools that pad, stop and tokenise by it do what training did."""

import copy
from typing import Any

from tokenizers import AddedToken, processors
from transformers import LlavaProcessor

from vlm.llms.load import LLM


def saved_tokenizer(llm: LLM) -> Any:
    """A copy of the LLM's tokenizer with the VLM's chat template. It pads on the left, where generation needs it."""
    tokenizer: Any = copy.deepcopy(llm.tokenizer)
    tokenizer.chat_template = llm.chat_template
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"  # what is saved; a tokenizer reloads with its default otherwise
    if tokenizer.pad_token is None:  # a newline that ends turns pads worse: some tools mask the pad id wherever it is
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def leave_bos_to_template(processor: LlavaProcessor) -> None:
    """Stop the tokenizer from adding a beginning-of-text token if the chat template writes it, as Llama 3's does.

    Stock tools render the template and then call the processor on the text: the prompt would begin with two of them.
    """
    tokenizer: Any = processor.tokenizer
    prompt = processor.apply_chat_template([{"role": "user", "content": "a"}], add_generation_prompt=True)
    bos, plain = tokenizer.bos_token, tokenizer("a", add_special_tokens=False).input_ids
    if bos and prompt.startswith(bos) and tokenizer("a").input_ids == [tokenizer.bos_token_id, *plain]:
        tokenizer.backend_tokenizer.post_processor = processors.Sequence([])


def end_turns_with(tokenizer: Any, end: int) -> None:
    """Make `end`, the token that ends a turn, the tokenizer's end of sequence.

    Stock tools stop at `tokenizer.eos_token_id` alone, and drop that token from what they print. SmolLM2's text format
    ends an answer with a newline. Its byte-level tokenizer spells that token "Ċ". As an added token it is found in text
    by this spelling only, so that newlines in prompts keep their ids. A token that is spelled as it reads would cut up
    prompts: it is left alone.
    """
    spelling, reads = tokenizer.convert_ids_to_tokens(end), tokenizer.decode([end])
    if spelling in tokenizer.get_added_vocab():
        tokenizer.eos_token = spelling
    elif spelling != reads and not reads.strip():
        token = AddedToken(spelling, single_word=True, normalized=False, special=True)
        tokenizer.add_special_tokens({"eos_token": token})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
