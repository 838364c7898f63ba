"""Literal rows, labels and masks; packed training equals one question a sequence through stock LLaVA."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny.llava import stock_config
from transformers import LlamaConfig, LlavaForConditionalGeneration, Qwen2Config, Qwen3Config

from bridge.attention import GROUPED
from bridge.data.packing import Conversation, attention_mask, fill_rows, make_batch, make_row
from bridge.forward import compiled_stack, label_logits, loss_sum, prefill, shared_prefill
from vlm.errors import UserError

IMAGE, SLOTS, END = 3, 4, 2
OPENING = (10, 11, 12)

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
TEXT_CONFIGS = {
    "llama": LlamaConfig(**TEXT, attention_bias=False),
    "qwen2": Qwen2Config(**TEXT),
    "qwen3": Qwen3Config(**TEXT, head_dim=8),
}


def conversation(key: str, question: list[int], answer: list[int], image: bool = True) -> Conversation:
    """The opening, an image, a shared opening token 20, the question, a shared closing token 21, the answer, END."""
    prompt = [*OPENING, *([IMAGE] * SLOTS if image else []), 20, *question, 21]
    return Conversation(key, (*prompt, *answer, END), len(prompt))


def tiny_llava(kind: str, attention: str = "eager") -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = {"tie_last_hidden_states": True}
    config = stock_config(TEXT_CONFIGS[kind], IMAGE, vision, image_seq_length=SLOTS, projector_hidden_act="gelu")
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    model.set_attn_implementation(attention)
    model.model.multi_modal_projector.requires_grad_(True)
    return model


def features_of(model, pixels):
    with torch.no_grad():
        return model.model.vision_tower(pixels).last_hidden_state[:, 1:]


def connector_gradients(model) -> list[torch.Tensor]:
    gradients = [parameter.grad.clone() for parameter in model.model.multi_modal_projector.parameters()]
    model.zero_grad()
    return gradients


IMAGES = [
    [conversation("a", [30, 31, 32], [40]), conversation("b", [33], [41, 42]), conversation("c", [30, 34], [43])],
    [conversation("d", [35, 36], [44]), conversation("e", [37], [45, 46, 47])],
]


def test_row_is_literal():
    # the example of the module's docstring: C=10 11, I=3, is=20, it=32, a=33, x=40, b=31, y=41, z=42, .=2
    one = Conversation("1", (10, 11, 3, 3, 20, 32, 33, 40, 2), 7)
    two = Conversation("2", (10, 11, 3, 3, 20, 31, 41, 42, 2), 6)
    row = make_row([one, two], opening_seen=2)
    assert row.ids == (3, 3, 20, 31, 41, 42, 32, 33, 40)
    assert row.positions == (2, 3, 4, 5, 6, 7, 5, 6, 7)
    assert row.ends == (9, 9, 9, 6, 6, 6, 9, 9, 9)
    assert row.label_at == (3, 4, 5, 7, 8)
    assert row.labels == (41, 42, 2, 40, 2)
    assert make_row([two, one], opening_seen=2) == row
    mask = attention_mask(make_batch([row]).ends, opening_keys=2, dtype=torch.float32)
    assert mask.shape == (1, 1, 9, 11)
    assert ((mask == 0) | (mask == torch.finfo(torch.float32).min)).all()
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1],
    ]


def test_batch_is_padded_and_labels_point_into_it():
    batch = make_batch([make_row(conversations, opening_seen=3) for conversations in IMAGES])
    assert batch.ids.tolist() == [
        [3, 3, 3, 3, 20, 30, 31, 32, 21, 40, 34, 21, 43, 33, 21, 41, 42],
        [3, 3, 3, 3, 20, 35, 36, 21, 44, 37, 21, 45, 46, 47, 0, 0, 0],
    ]
    assert batch.positions[0].tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9, 10, 11, 8, 9, 10, 11]
    assert batch.ends.tolist() == [
        [17] * 5 + [13] + [10] * 4 + [13] * 3 + [17] * 4,
        [14] * 5 + [9] * 4 + [14] * 5 + [15, 16, 17],
    ]
    pairs = list(zip(batch.ids.flatten()[batch.label_at].tolist(), batch.labels.tolist()))
    assert pairs[:7] == [(21, 40), (40, 2), (21, 43), (43, 2), (21, 41), (41, 42), (42, 2)]
    assert pairs[7:] == [(21, 44), (44, 2), (21, 45), (45, 46), (46, 47), (47, 2)]


def test_a_question_asked_twice_is_there_once_with_both_answers():
    twins = [conversation("a", [30], [40]), conversation("b", [30], [41]), conversation("c", [30], [40, 41])]
    row = make_row(twins, opening_seen=3)
    assert row.ids == (3, 3, 3, 3, 20, 30, 21, 40, 41, 41)
    assert list(zip(row.label_at, row.labels)) == [(6, 40), (7, 2), (6, 40), (7, 41), (8, 2), (6, 41), (9, 2)]


def test_rows_fill_the_budget_in_order():
    conversations = [conversation(str(i), [30 + i], [40]) for i in range(5)]
    # the image and the shared 20 take 5 tokens, each question 3: two questions fit 11 tokens, three do not
    rows = fill_rows([[item] for item in conversations], OPENING, row_tokens=11)
    assert [len(row.ids) for row in rows] == [11, 11, 10 - 2]
    assert [row.labels for row in rows] == [(40, 2) * 2, (40, 2) * 2, (40, 2)]


def test_a_question_longer_than_the_budget_is_named():
    conversations = [conversation("short", [30], [40]), conversation("q77", [31], [40] * 20)]
    with pytest.raises(UserError, match=r"question q77 .* takes 27 tokens, more than --row-tokens 20"):
        fill_rows([[item] for item in conversations], OPENING, row_tokens=20)


def stock_loss(model, pixels) -> torch.Tensor:
    """The mean loss over all answer tokens of stock LLaVA, with one question a sequence."""
    total, count = 0, 0
    for image, conversations in enumerate(IMAGES):
        for item in conversations:
            ids = torch.tensor([item.ids])
            labels = ids.clone()
            labels[:, : item.prompt] = -100
            answers = len(item.ids) - item.prompt
            output = model(input_ids=ids, pixel_values=pixels[image : image + 1], labels=labels)
            total, count = total + output.loss * answers, count + answers
    return total / count


@pytest.mark.parametrize("attention", ["eager", "sdpa", GROUPED])
@pytest.mark.parametrize("kind", TEXT_CONFIGS)
@pytest.mark.parametrize("opening_seen", [0, 3], ids=["opening in the row", "opening cached"])
def test_packed_equals_stock_llava(kind, attention, opening_seen):
    model = tiny_llava(kind, attention)
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = stock_loss(model, pixels)
    expected.backward()
    expected_gradients = connector_gradients(model)

    batch = make_batch([make_row(conversations, opening_seen) for conversations in IMAGES], IMAGE)
    past = prefill(model, OPENING[:opening_seen])
    stored = [(k.clone(), v.clone()) for k, v in past]
    packed = loss_sum(model, batch, features_of(model, pixels), past) / len(batch.labels)
    packed.backward()
    assert expected.item() > 1
    assert abs(packed.item() - expected.item()) < 1e-5
    for ours, theirs in zip(connector_gradients(model), expected_gradients):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    for (k, v), (k_before, v_before) in zip(past, stored):
        assert torch.equal(k, k_before)
        assert torch.equal(v, v_before)


def test_a_compiled_stack_computes_the_same_in_one_graph(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    model = tiny_llava("llama")
    stack, past = compiled_stack(model), prefill(model, OPENING)
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for images in (IMAGES, IMAGES[:1]):
        batch = make_batch([make_row(conversations, len(OPENING)) for conversations in images], IMAGE)
        found = []
        for way in (None, stack):
            loss = loss_sum(model, batch, features_of(model, pixels[: len(images)]), past, way)
            loss.backward()
            found.append((loss.item(), connector_gradients(model)))
        assert found[0][0] == found[1][0] > 1
        assert all(torch.equal(plain, same) and plain.any() for plain, same in zip(found[0][1], found[1][1]))


def test_gradients_pass_the_shared_prefill_once():
    model = tiny_llava("llama")
    weight = model.model.language_model.layers[0].self_attn.k_proj.weight.requires_grad_(True)
    features = torch.randn(2, SLOTS, 16, generator=torch.Generator().manual_seed(1))
    rows = [make_row(conversations, 0) for conversations in IMAGES]
    loss_sum(model, make_batch(rows, IMAGE), features, []).backward()
    expected, weight.grad = weight.grad, None
    with shared_prefill(model, OPENING) as past:
        for number, conversations in enumerate(IMAGES):
            batch = make_batch([make_row(conversations, len(OPENING))], IMAGE)
            loss_sum(model, batch, features[number : number + 1], past).backward()
        without_opening = weight.grad.clone()
    torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4)
    assert (without_opening - expected).abs().max() > 1e-3


def test_questions_do_not_see_each_other():
    model = tiny_llava("llama")
    features = torch.randn(1, SLOTS, 16, generator=torch.Generator().manual_seed(1))
    other = [IMAGES[0][0], conversation("b", [50], [51, 52]), IMAGES[0][2]]
    one, two = (
        label_logits(model, make_batch([make_row(row, 3)], IMAGE), features, prefill(model, OPENING))
        for row in (IMAGES[0], other)
    )
    # in the order of the tree: a's two labels, c's two, b's three
    assert torch.equal(one[:4], two[:4])
    assert not torch.allclose(one[4:], two[4:])


def test_blind_rows_need_no_image():
    model = tiny_llava("qwen2")
    pair = [conversation("a", [30], [40], image=False), conversation("b", [31, 32], [41], image=False)]
    packed = label_logits(model, make_batch([make_row(pair, 0)]), None, [])
    single = [model(input_ids=torch.tensor([item.ids])).logits[0, item.prompt - 1 : -1] for item in pair]
    torch.testing.assert_close(packed, torch.cat(single), atol=1e-5, rtol=1e-5)


def one_at_a_time(conversations, opening_seen: int, row_tokens: int) -> list:
    """`fill_rows` by its definition: a row takes the next conversation while it fits."""
    rows, waiting = [], []
    for item in conversations:
        if len(make_row([*waiting, item], opening_seen).ids) > row_tokens:
            rows.append(make_row(waiting, opening_seen))
            waiting = []
        waiting.append(item)
    return [*rows, make_row(waiting, opening_seen)]


def test_rows_hold_as_many_as_one_at_a_time_would():
    random = np.random.default_rng(0)
    counts = set()
    for _ in range(300):
        items = []
        for number in range(random.integers(1, 14)):
            words = random.integers(20, 23, random.integers(2, 9)).tolist()  # three words: much is shared
            ids = (10, 11, 3, 3, *words, 2)
            items.append(Conversation(str(number), ids, len(ids) - 2))
        row_tokens = int(random.integers(11, 40))
        rows = fill_rows([[item] for item in items], (10, 11), row_tokens=row_tokens)
        assert rows == one_at_a_time(items, 2, row_tokens)
        counts.add(len(rows))
    assert counts >= {1, 2, 3}
