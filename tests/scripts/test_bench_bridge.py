"""The bench of the bridge: both ways give one gradient, and its count of operations is torch's."""

import pytest
import torch
from bench import bridge_flops, bridge_ways
from torch.utils.flop_counter import FlopCounterMode

QUESTIONS = (3, 2)
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}


TINY = bridge_ways.model_config(
    2, {**SIZES, "num_key_value_heads": 2, "vocab_size": 200}, {**SIZES, "num_hidden_layers": 2}
)


@pytest.fixture
def ways(tmp_path):
    made = []
    for kind in (bridge_ways.OneQuestionASequence, bridge_ways.Bridge):
        made.append(kind(bridge_ways.frozen_model(TINY, torch.float32), QUESTIONS, tmp_path))
    for way in made:
        way.model.set_attn_implementation("eager")  # whose products torch's counter sees
    return made


def test_our_way_is_frozen_as_the_product_freezes(tmp_path):
    way = bridge_ways.Bridge(bridge_ways.frozen_model(TINY, torch.bfloat16), QUESTIONS, tmp_path)
    # As bridge.parts.freeze has it on CPUs.
    assert way.model.model.language_model.config._attn_implementation == "grouped"
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


def test_operations_are_what_torch_counts(ways):
    expected = [count(QUESTIONS, TINY) for count in (bridge_flops.reference_flops, bridge_flops.bridge_flops)]
    for way, parts in zip(ways, expected):
        with FlopCounterMode(display=False) as counter:
            way.backward()
        # the tower's pooler, which nothing uses, is not among the parts
        assert counter.get_total_flops() == pytest.approx(sum(parts.values()), rel=1e-4)


def test_a_step_of_many_micro_batches_is_one_mean(monkeypatch, tmp_path):
    whole, cut = [], []
    for budget, losses in ((8192, whole), (500, cut)):
        monkeypatch.setattr(bridge_ways, "MICRO_TOKENS", budget)
        for kind in (bridge_ways.OneQuestionASequence, bridge_ways.MergedConversation, bridge_ways.Bridge):
            way = kind(bridge_ways.frozen_model(TINY, torch.float32), QUESTIONS, tmp_path)
            losses.append(way.backward())
    assert bridge_ways.in_batches([223, 225, 222, 220, 230]) == [[0, 1], [2, 3], [4]]
    assert cut == pytest.approx(whole, rel=1e-6)
