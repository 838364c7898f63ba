"""Batched decoding on a shared prefix against stock `generate`, one prompt at a time."""

import random

import pytest
import torch
from tiny.llava import stock_config
from transformers import LlamaConfig, LlavaForConditionalGeneration, Qwen2Config

from bridge.evaluation.decode import Decoder, Placed, additive_mask, common_prefix, group_prompts

SLOT, SLOTS, BUDGET = 90, 16, 10
ENDS = [5, 17, 33, 44, 55, 66, 21, 22, 23]  # many, so that random weights meet one early, late or never


def tiny_llava(text_config: type) -> LlavaForConditionalGeneration:
    text = text_config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = stock_config(text, SLOT, vision={"image_size": 16})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration(config).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    model.generation_config.eos_token_id = ENDS
    model.generation_config.pad_token_id = 0
    return model


def questions(rng: random.Random, count: int) -> list[list[int]]:
    return [[7] + [rng.randrange(8, 80) for _ in range(rng.randrange(1, 12))] for _ in range(count)]


def make_images(model, rng, counts=(1, 3, 30)) -> list[tuple[torch.Tensor, list[list[int]]]]:
    """For each image its pixels, float32[1, 3, 16, 16], and its whole prompts."""
    generator = torch.Generator().manual_seed(0)
    head = [3, 4, 5, 6] + [SLOT] * SLOTS
    return [
        (torch.randn(1, 3, 16, 16, generator=generator), [head + q for q in questions(rng, count)]) for count in counts
    ]


def features(model, pixels):
    with torch.inference_mode():
        return model.get_image_features(pixel_values=pixels).pooler_output[0]


def stock(model, prompt: list[int], pixels=None) -> list[int]:
    image = {} if pixels is None else {"pixel_values": pixels}
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=BUDGET, **image
    )
    new = out[0, len(prompt) :].tolist()
    return new[:-1] if new[-1] in ENDS else new


@pytest.mark.parametrize("text_config", [LlamaConfig, Qwen2Config])
def test_equal_to_stock_generate_one_by_one(text_config):
    model = tiny_llava(text_config)
    images = make_images(model, random.Random(1))
    expected = [[stock(model, prompt, pixels) for prompt in prompts] for pixels, prompts in images]
    lengths = {len(answer) for answers in expected for answer in answers}
    assert {0, BUDGET} < lengths, "the case must hold answers that stop at once, early, and never"
    groups = [group_prompts(prompts, features(model, pixels)) for pixels, prompts in images]
    for row_size in (1, 7, 24):
        decoder = Decoder(model, images[0][1][0], row_size)
        assert decoder.opening_ids == [3, 4, 5, 6]
        assert decoder.decode(groups, BUDGET) == expected
    assert decoder.decode(groups[1:2], BUDGET) == expected[1:2]  # the opening's keys are not used up


def test_without_an_image_and_with_text_in_its_place():
    model = tiny_llava(LlamaConfig)
    rng = random.Random(2)
    blind = [[3, 4, 8, *q] for q in questions(rng, 9)]
    caption = [[3, 4, *range(30, 30 + length), 7, *q] for length in (3, 9) for q in questions(rng, 5)]
    groups = [group_prompts(part) for part in (blind, caption[:5], caption[5:])]
    expected = [[stock(model, prompt) for prompt in part] for part in (blind, caption[:5], caption[5:])]
    assert Decoder(model, [3, 4]).decode(groups, BUDGET) == expected
    assert Decoder(model, [3, 4, 8]).decode(groups, BUDGET) == expected  # not how all begin: prefilled anew
    assert Decoder(model, []).decode(groups, BUDGET) == expected


def test_logits_on_the_shared_prefix_equal_those_of_the_whole_prompt():
    model = tiny_llava(Qwen2Config)
    (pixels, prompts), *_ = make_images(model, random.Random(4), counts=(13,))
    decoder = Decoder(model, prompts[0])
    seen = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    decoder.decode([group_prompts(prompts, features(model, pixels))], 1)
    hook.remove()
    with torch.inference_mode():
        whole = [model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, -1] for ids in prompts]
    assert len(seen) == 1 and seen[0].shape == (13, 97)
    torch.testing.assert_close(seen[0], torch.stack(whole), atol=1e-5, rtol=0)


def test_finished_questions_are_fed_no_more():
    model = tiny_llava(LlamaConfig)
    (pixels, prompts), *_ = make_images(model, random.Random(1), counts=(30,))
    lengths = [len(stock(model, prompt, pixels)) for prompt in prompts]
    fed = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: fed.append(len(output)))
    Decoder(model, prompts[0]).decode([group_prompts(prompts, features(model, pixels))], BUDGET)
    hook.remove()
    assert fed == [sum(length >= step for length in lengths) for step in range(BUDGET)]


def test_wrong_number_of_features_is_refused():
    model = tiny_llava(LlamaConfig)
    (pixels, prompts), *_ = make_images(model, random.Random(1), counts=(3,))
    with pytest.raises(ValueError, match="16 image slots in the prompt, 9 image features"):
        Decoder(model, prompts[0]).decode([group_prompts(prompts, features(model, pixels)[:9])], 1)


def test_common_prefix():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix([[1, 2], [1, 2, 4]]) == 1  # a tail keeps one token
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1], [2]]) == 0


def test_mask():
    # keys: prefix of two, its padding, question 0 with two tokens, question 1 with one, padding
    keys = Placed(torch.tensor([[-1, -1, -2, 0, 0, 1, -2]]), torch.tensor([[0, 1, 2, 2, 3, 2, 0]]))
    queries = Placed(torch.tensor([[0, 0, 1]]), torch.tensor([[2, 3, 2]]))
    mask = additive_mask(queries, keys, torch.float32)
    assert mask.shape == (1, 1, 3, 7)
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.float32).min}
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
    ]
