"""What can be trained: LoRA, baselines, a timm encoder, every LLM family, quantised LLMs."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, CLIPImageProcessor, LlamaForCausalLM

from bridge import evaluate, gradients
from bridge.folder import whole_bytes
from vlm.files import read_jsonl
from vlm.llava.model import load
from vlm.llms.load import load_llm


def test_lora_goes_on_from_a_run_and_is_merged(training, whole, tmp_path):
    out = tmp_path / "lora"
    training.run(out, "--init", str(whole / "vlm"), "--lora", "4")
    assert training.losses(out)[0] < training.losses(whole)[0] - 0.3
    assert np.mean(training.losses(out)[-3:]) < np.mean(training.losses(whole)[-3:])
    assert (out / "adapter/adapter_config.json").exists()
    before = AutoModelForImageTextToText.from_pretrained(whole / "vlm").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(out / "vlm").state_dict()
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "linear_1", "linear_2"}


def test_lora_goes_on_in_bf16(training, whole, tmp_path):
    """The trained weights are float32 though the loaded ones are not: every loss stays close to the fp32 run's.

    At a usual learning rate: at the other tests' .05 the last loss depends on how a processor rounds bf16.
    """
    flags = ("--init", str(whole / "vlm"), "--lora", "4", "--lr", "2e-3")
    training.run(tmp_path / "fp32", *flags)
    training.run(tmp_path / "bf16", *flags, "--precision", "bf16")
    exact = training.losses(tmp_path / "fp32")
    assert training.losses(tmp_path / "bf16") == pytest.approx(exact, abs=0.02)
    assert min(exact) < exact[0] - 0.5  # it has learnt


def test_baselines(training, whole, tmp_path):
    training.run(tmp_path / "random", "--encoder", f"random:{training.root / 'encoder'}", "--steps", "2")
    assert training.losses(tmp_path / "random")[0] != training.losses(whole)[0]
    training.run(tmp_path / "blind", "--encoder", "blind")
    losses = training.losses(tmp_path / "blind")
    assert np.mean(losses[-3:]) < losses[0]  # it learns what is often right
    blind = load(tmp_path / "blind/vlm")
    answers = [blind.answer(Image.new("RGB", (40, 40), name), "What color is it?") for name in ("red", "blue")]
    assert answers[0] == answers[1]


def test_a_timm_vit_trains_and_leaves_a_stock_llava(training, tmp_path):
    vit = timm.create_model("test_vit", num_classes=3).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = f"timm:test_vit@{tmp_path / 'vit.safetensors'}"
    training.run(tmp_path / "run", "--encoder", encoder, "--normalisation", "imagenet", "--steps", "2")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "run/vlm", dtype=torch.float32)
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "run/vlm")
    pixels = processor(Image.new("RGB", (40, 30), (124, 116, 104)), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 160, 160)
    assert pixels.abs().max() < 0.01  # the mean colour of ImageNet
    with torch.no_grad():
        tokens = stock.model.vision_tower(pixels).last_hidden_state
        torch.testing.assert_close(tokens, vit.forward_features(pixels), atol=1e-5, rtol=1e-5)
    training.run(tmp_path / "random", "--encoder", "random:timm:test_vit", "--steps", "1")
    assert training.losses(tmp_path / "random")[0] != training.losses(tmp_path / "run")[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_family_trains_and_is_evaluated(training, llm_folders, benchmark_files, tmp_path, monkeypatch, family):
    """With the family's chat template; the bytes of the LLM stay as they were."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # fp32 on every machine
    training.run(tmp_path, "--llm", str(llm_folders[family]), "--steps", "3")
    command = ["evaluate.py", str(tmp_path / "vlm"), "--gqa", str(benchmark_files / "gqa"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "eval"), "--max-new-tokens", "5"])
    evaluate.main()
    records = list(read_jsonl(tmp_path / "eval/predictions/gqa.jsonl"))
    assert len(records) == 5
    vlm = load(tmp_path / "vlm")
    for record in records:
        image = benchmark_files / "gqa/images" / record["image"]
        assert record["answer"] == vlm.answer(image, record["question"], max_new_tokens=5, short=True)
    before = load_file(llm_folders[family] / "model.safetensors")
    after = load_file(tmp_path / "vlm/model.safetensors")
    for name, value in before.items():
        name = "language_model." + name
        assert torch.equal(after[name].view(torch.uint8), value.view(torch.uint8)), name


def dequantised(folder: Path, out: Path) -> Path:
    """Copy the LLM in `folder`, with the values that its 4-bit weights stand for."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    shutil.copytree(folder, out)
    weights = load_file(folder / "model.safetensors")
    for name, module in load_llm(str(folder), torch.float32, "4bit").model.named_modules():
        if isinstance(module, Linear4bit):
            weights[f"{name}.weight"] = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("more", [("--load-in", "4bit"), ("--load-in", "8bit", "--lora", "4")])
def test_a_quantised_llm_trains_and_leaves_a_full_one(training, whole, tmp_path, more):
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "out"
    training.run(out, *more)
    if "4bit" in more:
        llm = dequantised(training.root / "llm", tmp_path / "llm")
        training.run(tmp_path / "full", "--llm", str(llm), "--steps", "1")
        np.testing.assert_allclose(training.losses(out)[0], training.losses(tmp_path / "full")[0], rtol=1e-4)
    else:
        np.testing.assert_allclose(training.losses(out)[0], training.losses(whole)[0], rtol=0.05)
    assert training.losses(out)[0] != training.losses(whole)[0]
    assert np.mean(training.losses(out)[-3:]) < np.mean(training.losses(out)[:3]) - 0.5
    config = json.loads((out / "vlm/config.json").read_text())
    assert "quantization_config" not in config
    assert "quantization_config" not in config["text_config"]
    stock = AutoModelForImageTextToText.from_pretrained(out / "vlm", dtype=torch.float32).state_dict()
    llm = LlamaForCausalLM.from_pretrained(training.root / "llm", dtype=torch.float32).model.state_dict()
    changed = {name.split(".")[-2] for name in llm if not torch.equal(stock[f"model.language_model.{name}"], llm[name])}
    assert changed == ({"q_proj", "k_proj", "v_proj", "o_proj"} if "--lora" in more else set())
    trained = training.weights(out)
    prefix = "model.multi_modal_projector." + ("modules_to_save.default." if "--lora" in more else "")
    for name in ("linear_1.weight", "linear_2.bias"):
        assert torch.equal(stock[f"model.multi_modal_projector.{name}"], trained[prefix + name])


def test_a_trained_connector_goes_on_with_a_quantised_llm(training, whole, benchmark_files, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.nn import Linear4bit

    out = tmp_path / "out"
    training.run(out, "--init", str(whole / "vlm"), "--load-in", "4bit")
    assert training.losses(out)[0] < training.losses(whole)[0] - 0.3  # not from the beginning
    assert training.losses(out)[0] != training.losses(whole)[-1]
    before, after = (load_file(folder / "vlm/model.safetensors") for folder in (whole, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("multi_modal_projector" in name for name in changed)

    vlm = load(out / "vlm", "cpu", torch.float32, "4bit")
    quantised = {name for name, module in vlm.model.named_modules() if isinstance(module, Linear4bit)}
    assert len(quantised) == 2 * 7 and all("language_model.layers" in name for name in quantised)
    command = ["evaluate.py", str(out), "--gqa", str(benchmark_files / "gqa"), "--device", "cpu", "--load-in", "4bit"]
    monkeypatch.setattr(sys, "argv", [*command, "--max-new-tokens", "5", "--precision", "fp32"])
    evaluate.main()
    for record in read_jsonl(out / "eval/predictions/gqa.jsonl"):
        image = benchmark_files / "gqa/images" / record["image"]
        assert record["answer"] == vlm.answer(image, record["question"], max_new_tokens=5, short=True)


def test_the_result_of_a_quantised_run_has_its_dtype_whatever_this_cpu_is_fast_at(training, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    fast = iter([torch.bfloat16])  # a GPU in which the run trains; after it the CPU that saves
    monkeypatch.setattr("bridge.parts.chosen_dtype", lambda *_: next(fast, torch.float32))
    training.run(tmp_path / "out", "--load-in", "4bit", "--steps", "1")
    saved = load_file(tmp_path / "out/vlm/model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_room_is_counted_for_the_whole_model(training, load_in):
    pytest.importorskip("bitsandbytes")
    quantised, whole = (load_llm(str(training.root / "llm"), torch.bfloat16, kind).model for kind in (load_in, None))
    assert sum(weight.nbytes for weight in quantised.parameters()) < whole_bytes(whole)
    assert whole_bytes(quantised) == whole_bytes(whole) == sum(weight.nbytes for weight in whole.parameters())


def test_a_broken_step_moves_nothing_where_the_optimizer_does_not_look(monkeypatch):
    """As on Apple's GPUs: the host looks, and leaves the optimizer alone."""
    monkeypatch.setattr(gradients, "UNFLAGGED", ("cpu",))
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)  # not fused
    for grad, loss, moves in ((math.nan, 1.0, False), (1.0, math.inf, False), (1.0, 1.0, True)):
        before, weight.grad = weight.detach().clone(), torch.full((3,), grad)
        optimizer.step = lambda: weight.data.sub_(weight.grad)  # whatever `found_inf` says
        gradients.update([weight], optimizer, torch.tensor(loss), clip=0)
        assert torch.equal(before, weight) != moves and weight.grad is None
