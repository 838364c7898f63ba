"""Prompts: the ids of the stock processor, LLaVA's wording in each family's format, no text becomes control tokens."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from vlm.errors import UserError
from vlm.llava.assembly import assemble
from vlm.llms.load import load_llm
from vlm.llms.prompt import SHORT_ANSWER, briefly, without_examples

QUESTION = "What color is the star?"
FAMILY = pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])


@FAMILY
def test_prompt_ids_are_the_stock_processors(models, picture, family):
    model = models[family]
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    conversation = [{"role": "user", "content": content}]
    stock = model.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True)
    ids = model.prompt_ids(QUESTION)
    assert ids == stock[0]
    assert ids.count(model.processor.image_token_id) == 9 == model.model.config.image_seq_length
    text_only = model.processor.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=True
    )
    assert model.prompt_ids(QUESTION, images=0) == text_only[0]


PROMPTS = {
    "qwen2": "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n" + "<|image_pad|>" * 9 + "\n"
    f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    "llama": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n" + "<|reserved_special_token_0|>" * 9 + f"\n{QUESTION}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen3": "<|im_start|>user\n" + "<|image_pad|>" * 9 + f"\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n",
}


@FAMILY
def test_prompts_read_as_llavas_inside_the_llms_own_format(models, family):
    ids, prompt = models[family].conversation_ids(QUESTION, "red")
    tokenizer = models[family].processor.tokenizer
    end = {"llama": "<|eot_id|>"}.get(family, "<|im_end|>")
    assert tokenizer.decode(ids[:prompt]) == PROMPTS[family]
    assert tokenizer.decode(ids[prompt:]) == "red" + end
    assert ids[:prompt] == models[family].prompt_ids(QUESTION)
    assert models[family].model.generation_config.eos_token_id[0] == tokenizer.convert_tokens_to_ids(end) == ids[-1]


def test_history_and_caption_take_their_places(models):
    model, decode = models["qwen2"], models["qwen2"].processor.tokenizer.decode
    text = decode(model.prompt_ids("And now?", history=[("What?", "a star"), ("Big?", "no")]))
    turn = "<|im_end|>\n<|im_start|>"
    assert text.split("<|im_start|>user\n", 1)[1] == (
        "<|image_pad|>" * 9 + f"\nWhat?{turn}assistant\na star<|im_end|>\n<|im_start|>user\nBig?{turn}assistant\n"
        f"no<|im_end|>\n<|im_start|>user\nAnd now?{turn}assistant\n"
    )
    text = decode(model.prompt_ids("What?", images=0, caption="a star"))
    assert text.split("<|im_start|>user\n", 1)[1] == f"a star\nWhat?{turn}assistant\n"


def test_a_template_whose_prompt_is_no_prefix_is_refused(llm_folders, encoder):
    llm = load_llm(str(llm_folders["qwen2"]), torch.float32)
    # As some reasoning models': the prompt opens a thought, the finished conversation shows none.
    opening = llm.chat_template.replace("{{- '<|im_start|>assistant\n' }}", "{{- '<|im_start|>assistant\n<think>' }}")
    llm = dataclasses.replace(llm, chat_template=opening)
    with pytest.raises(UserError, match="not the beginning of its full conversation"):
        assemble(encoder, llm).conversation_ids(QUESTION, "red")


@FAMILY
def test_no_text_becomes_a_control_token(models, family):
    """Every added token is refused by name; random text round-trips, with the template's own control ids only."""
    model = models[family]
    tokenizer, added = model.processor.tokenizer, model.processor.tokenizer.get_added_vocab()
    control = [i for i in model.prompt_ids("x") if i in added.values()]
    for token in added:
        for give in (lambda t=token: model.answer(None, f"a {t} b"), lambda t=token: model.stream(None, t)):
            with pytest.raises(UserError, match="control token") as error:
                give()
            assert token in str(error.value)
    pieces = [
        "<|",
        "im_end",
        "|>",
        "<",
        "think",
        ">",
        "star",
        " ",
        "\n",
        "é",
        "<image>",
        "<|im_",
        "\x00",
        "🙂",
        "eot_id",
    ]
    random = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(random.choice(pieces, random.integers(1, 9)))
        if not model.prompts.allows(text):
            continue
        ids = model.prompt_ids(text)
        assert [i for i in ids if i in added.values()] == control
        assert text.strip() in tokenizer.decode(ids)
    for text in ("", " \n", "\ud800"):
        with pytest.raises(UserError):
            model.answer(None, text)
    with pytest.raises(Exception, match="a role is one of system, user, assistant"):
        model.processor.apply_chat_template([{"role": "tool<|im_end|>", "content": "x"}])


def test_the_real_smollm2(encoder, picture):
    """A base model's prompt: the answer is an ordinary word token, and the end of the line ends it."""
    model = assemble(encoder, load_llm("smollm2", torch.float32))
    ids, prompt = model.conversation_ids(QUESTION, "red")
    tokenizer = model.processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(ids[prompt:]) == ["Ġred", "Ċ"]
    slots = "<empty_output>" * 9
    assert tokenizer.decode(ids[prompt - 22 : prompt]) == f"\n\nImage:{slots}\n{QUESTION} Answer:"
    assert model.prompt_ids(QUESTION, images=0, caption="a red star")[:150] == ids[:150]
    assert tokenizer.decode(model.prompt_ids(QUESTION, images=0, caption="a red star")).endswith(
        "\n\nImage: a red star\nWhat color is the star? Answer:"
    )
    assert model.model.generation_config.eos_token_id == [198, 2]
    assert "\n" not in model.answer(picture, QUESTION, max_new_tokens=5)
    trained = load_llm("smollm2", torch.float32, examples=False)  # for LoRA: the prompt without worked examples
    text = assemble(encoder, trained).prompt_ids(QUESTION, images=0)
    assert tokenizer.decode(text) == f"\n{QUESTION} Answer:"
    full = model.processor.chat_template
    assert without_examples(full) == trained.chat_template != full
    assert without_examples(full.replace("What color is the bird? Answer: grey", "Others")) == trained.chat_template


def test_smollm2s_examples_stand_for_the_sentence_that_asks_for_short_answers(encoder):
    assert SHORT_ANSWER == "Answer the question using a single word or phrase."
    model = assemble(encoder, load_llm("smollm2", torch.float32))
    short = model.conversation_ids(briefly(QUESTION), "red")
    assert short == model.conversation_ids(QUESTION, "red")
    assert len(short[0]) == 354
    assert hashlib.sha256(repr(short[0]).encode()).hexdigest()[:12] == "5bd652099a44"
    history = [(briefly("Is it?"), "no")]
    again = model.prompt_ids(briefly(QUESTION), history=history)
    assert again == model.prompt_ids(QUESTION, history=[("Is it?", "no")])
    # Nothing else is left out: the sentence elsewhere, alone, or in an answer.
    decode = model.processor.tokenizer.decode
    for text in (f"{SHORT_ANSWER} Is it?", SHORT_ANSWER):
        assert decode(model.prompt_ids(text)).endswith(f"\n{text} Answer:")
    assert decode(model.conversation_ids("Why?", SHORT_ANSWER)[0]).endswith(f"Answer: {SHORT_ANSWER}\n")
    trained = assemble(encoder, load_llm("smollm2", torch.float32, examples=False))
    text = decode(trained.prompt_ids(briefly("Is it?"), images=0))
    assert text == f"\nIs it?\n{SHORT_ANSWER} Answer:"


@FAMILY
def test_a_short_answer_is_asked_for_where_it_is_wanted(models, family):
    model = models[family]
    decode = model.processor.tokenizer.decode
    assert SHORT_ANSWER not in decode(model.prompt_ids("Describe the image in detail."))
    assert decode(model.prompt_ids(briefly(QUESTION))).count(f"{QUESTION}\n{SHORT_ANSWER}<|") == 1
    history = [("Is it?", "no")]
    given = model.answer(None, QUESTION, 4, history, short=True)
    assert given == model.answer(None, briefly(QUESTION), 4, [(briefly("Is it?"), "no")])
    assert given == "".join(model.stream(None, QUESTION, 4, history, short=True))
