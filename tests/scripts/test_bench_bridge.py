"""The bench of the bridge: both ways give one gradient, and its count of operations is torch's."""

import pytest
import torch
from bench import bridge_flops, bridge_ways
from bench.settings import BridgeCase
from tiny.llava import stock_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaConfig, Qwen2Config

QUESTIONS = (3, 2)
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def tiny_config(layers: int) -> LlavaConfig:
    text = Qwen2Config(**SIZES, num_key_value_heads=2, vocab_size=200, tie_word_embeddings=True)
    vision = {**SIZES, "image_size": 224, "patch_size": 16, "tie_last_hidden_states": True}
    slots = bridge_ways.SLOTS
    return stock_config(text, bridge_ways.IMAGE, vision, image_seq_length=slots, tie_word_embeddings=True)


@pytest.fixture
def ways(monkeypatch, tmp_path):
    monkeypatch.setattr(bridge_ways, "model_config", tiny_config)
    monkeypatch.setattr(bridge_ways, "VOCABULARY", 200)
    made = [
        make(2, torch.float32, QUESTIONS, tmp_path) for make in (bridge_ways.OneQuestionASequence, bridge_ways.Bridge)
    ]
    for way in made:
        way.model.set_attn_implementation("eager")  # whose products torch's counter sees
    return made


def test_our_way_is_frozen_as_the_product_freezes(monkeypatch, tmp_path):
    monkeypatch.setattr(bridge_ways, "model_config", tiny_config)
    monkeypatch.setattr(bridge_ways, "VOCABULARY", 200)
    way = bridge_ways.Bridge(2, torch.bfloat16, QUESTIONS, tmp_path)
    assert (
        way.model.model.language_model.config._attn_implementation == "eager"
    )  # as bridge.parts.freeze has it on CPUs
    assert {weight.dtype for weight in way.trainee.weights.values()} == {torch.float32}
    assert {id(weight) for weight in way.trainee.weights.values()} == {
        id(weight) for weight in way.connector.parameters()
    }
    assert way.step() > 0


def test_both_ways_give_one_loss_and_gradient(ways):
    llava, bridge = (way.backward() for way in ways)
    assert bridge == pytest.approx(llava, rel=1e-6)
    torch.testing.assert_close(ways[1].gradient(), ways[0].gradient(), atol=1e-6, rtol=1e-3)
    assert ways[0].gradient().norm() > 1e-3


def test_operations_are_what_torch_counts(ways, monkeypatch):
    monkeypatch.setattr(bridge_flops, "model_config", tiny_config)
    case = BridgeCase("tiny", QUESTIONS, 1, 5, 2)
    expected = [count(case, layers=2) for count in (bridge_flops.reference_flops, bridge_flops.bridge_flops)]
    for way, parts in zip(ways, expected):
        with FlopCounterMode(display=False) as counter:
            way.backward()
        # the tower's pooler, which nothing uses, is not among the parts
        assert counter.get_total_flops() == pytest.approx(sum(parts.values()), rel=1e-4)
