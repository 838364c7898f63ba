"""The training command as a user runs it, on tiny models and data: result, ranks, memory, precision."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, LlamaForCausalLM

from bridge.loop import learning_rate
from vlm.files import read_jsonl


def test_a_run_learns_and_leaves_a_stock_llava(training, whole):
    lines = training.metrics(whole)
    assert [line["step"] for line in lines] == list(range(12))
    assert {"loss", "lr", "samples_per_s", "questions_per_s", "tokens", "answer_tokens"} <= lines[0].keys()
    assert np.mean(training.losses(whole)[-3:]) < np.mean(training.losses(whole)[:3]) - 0.5
    assert json.loads((whole / "config.json").read_text())["encoder"] == str(training.root / "encoder")
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step_10", "step_12"]

    stock = AutoModelForImageTextToText.from_pretrained(whole / "vlm", dtype=torch.float32)
    trained = load_file(whole / "checkpoints/step_12/weights.safetensors")
    for name, value in stock.model.multi_modal_projector.state_dict().items():
        assert torch.equal(trained[f"model.multi_modal_projector.{name}"], value)
    llm = LlamaForCausalLM.from_pretrained(training.root / "llm", dtype=torch.float32)
    for name, value in llm.model.state_dict().items():
        assert torch.equal(stock.model.language_model.state_dict()[name], value), f"the frozen LLM moved: {name}"


def test_two_ranks_equal_one(training, whole, tmp_path):
    # `accelerate launch` starts several CPU processes through MPI only; torchrun starts them through gloo
    training.command(
        *training.flags(tmp_path / "two", "--show-every", "12", "--tracker", "tensorboard"),
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    )
    assert len(list((tmp_path / "two/tensorboard").iterdir())) == 1  # the first rank alone shows and asks
    assert len(list(read_jsonl(tmp_path / "two/held_out.jsonl"))) == 1
    one, two = training.metrics(whole), training.metrics(tmp_path / "two")
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-5)
    for name in ("questions", "tokens", "answer_tokens", "lr"):
        assert [line[name] for line in two] == [line[name] for line in one]
    for name, value in training.weights(whole).items():
        torch.testing.assert_close(training.weights(tmp_path / "two")[name], value, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_changes_nothing(training, whole, tmp_path):
    training.run(tmp_path / "out", "--gradient-checkpointing", "--micro-tokens", "60")
    np.testing.assert_allclose(training.losses(tmp_path / "out"), training.losses(whole), rtol=1e-4)


def test_bf16_trains_an_fp32_connector(training, whole, tmp_path):
    training.run(tmp_path / "out", "--precision", "bf16")
    np.testing.assert_allclose(training.losses(tmp_path / "out"), training.losses(whole), rtol=0.02)
    assert training.weights(tmp_path / "out")["model.multi_modal_projector.linear_1.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "out/vlm/config.json").read_text())["dtype"] == "bfloat16"


def test_learning_rate_is_a_function_of_the_step():
    rates = [learning_rate(step, 100, peak=1.0, warmup=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert learning_rate(0, 1, 1.0, 0.05) == 1.0
