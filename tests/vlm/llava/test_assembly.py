"""The assembled VLM: features equal timm's, the LLM stays as it was, and stock code reloads it exactly."""

import hashlib
import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from vlm.encoders.levljepa import new_encoder
from vlm.errors import UserError
from vlm.llava.assembly import assemble
from vlm.llava.model import load
from vlm.llava.parity import connector_input
from vlm.llms.load import load_llm

QUESTION = "What color is the star?"
FAMILY = pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])


def digest(model) -> str:
    """The hash of the language model's bytes, head and embeddings included."""
    value = hashlib.sha256()
    parts = {**model.model.language_model.state_dict(prefix="lm."), **model.lm_head.state_dict(prefix="head.")}
    for name in sorted(parts):
        value.update(name.encode() + parts[name].contiguous().view(torch.uint8).numpy().tobytes())
    return value.hexdigest()


@FAMILY
def test_the_connector_sees_the_encoders_tokens(models, encoder, family):
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    tokens = connector_input(models[family].model, pixels)
    assert tokens.shape == (3, 9, 24)
    assert torch.allclose(tokens, encoder.patch_tokens(pixels), atol=2e-6)


STOCK = """
import json, sys
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
result = {}
for folder in sys.argv[2:]:
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": Image.open(sys.argv[1])}, {"type": "text", "text": "What color is the star?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )
    fixed = torch.linspace(-1.5, 1.5, inputs["pixel_values"].numel()).reshape(inputs["pixel_values"].shape)
    with torch.no_grad():
        logits = model(**{**inputs, "pixel_values": fixed}).logits[0, -1]
        out = model.generate(**inputs, max_new_tokens=8)
    result[folder] = {
        "ids": inputs["input_ids"][0].tolist(), "pixels": inputs["pixel_values"][0].tolist(), "logits": logits.tolist(),
        "generated": out[0, inputs["input_ids"].shape[1]:].tolist(), "report": {k: len(v) for k, v in report.items()},
        "names": [type(model).__name__, type(processor).__name__],
        "foreign": sorted({name.split(".")[0] for name in sys.modules} & {"vlm", "bridge", "pretrain", "timm"}),
    }
print(json.dumps(result))
"""


def test_a_process_with_transformers_alone_gets_the_same(models, saved, encoder, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    folders = [str(saved / family) for family in models]
    run = subprocess.run(
        [sys.executable, "-c", STOCK, tmp_path / "picture.png", *folders], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads(run.stdout.splitlines()[-1])
    for folder, model in zip(folders, models.values()):
        stock = results[folder]
        assert stock["names"] == ["LlavaForConditionalGeneration", "LlavaProcessor"] and stock["foreign"] == []
        assert not any(stock["report"].values())
        assert stock["ids"] == model.prompt_ids(QUESTION)
        fixed = torch.linspace(-1.5, 1.5, 3 * 24 * 24).reshape(1, 3, 24, 24)
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([stock["ids"]]), pixel_values=fixed).logits[0, -1]
        assert torch.equal(logits, torch.tensor(stock["logits"]))
        assert torch.equal(torch.tensor(stock["pixels"]), encoder.transform(picture))


@FAMILY
def test_pixels_are_the_encoders_to_the_bit(saved, encoder, picture, family):
    again = load(saved / family, "cpu")
    pixels = again.processor.image_processor(images=picture, return_tensors="pt").pixel_values[0]
    assert torch.equal(pixels, encoder.transform(picture))


@FAMILY
def test_the_llm_stays_byte_identical(llm_folders, encoder, tmp_path, family):
    llm = load_llm(str(llm_folders[family]), torch.float32)
    original = load_file(llm_folders[family] / "model.safetensors")
    model = assemble(encoder, llm)
    before = digest(model.model)
    connector = [p.requires_grad_(True) for p in model.connector.parameters()]
    optimizer = torch.optim.AdamW(connector, lr=0.1)
    ids, prompt = model.conversation_ids(QUESTION, "red")
    labels = torch.tensor([[-100] * prompt + ids[prompt:]])
    pixels = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    model.model(input_ids=torch.tensor([ids]), pixel_values=pixels, labels=labels).loss.backward()
    optimizer.step()
    model.save(tmp_path / "vlm")
    assert digest(load(tmp_path / "vlm", "cpu", torch.float32).model) == digest(model.model) == before
    stored = load_file(tmp_path / "vlm/model.safetensors")
    for name, value in original.items():
        there = stored[name.replace("model.", "language_model.model.", 1)] if name.startswith("model.") else None
        there = stored["language_model.lm_head.weight"] if there is None else there
        assert torch.equal(there, value), name


def test_a_bf16_llm_is_saved_and_reloaded_as_bf16(llm_folders, encoder, tmp_path):
    model = assemble(encoder, load_llm(str(llm_folders["qwen2"]), torch.bfloat16))
    assert model.connector.linear_1.weight.dtype == model.model.model.vision_tower.dtype == torch.float32
    model.save(tmp_path / "vlm")
    assert json.loads((tmp_path / "vlm/config.json").read_text())["dtype"] == "bfloat16"
    again = load(tmp_path / "vlm", "cpu", torch.bfloat16)
    assert {p.dtype for p in again.model.parameters()} == {torch.bfloat16}
    assert digest(again.model) == digest(model.model)


def test_the_global_random_state_is_left_alone_and_seeds_count(llm_folders, encoder):
    llm = load_llm(str(llm_folders["qwen2"]), torch.float32)
    state = torch.get_rng_state()
    first, second, third = (assemble(encoder, llm, seed=seed).connector.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linear_1.weight"], third["linear_1.weight"])
    bound = 1 / 32**0.5
    assert 0.9 * bound < first["linear_2.weight"].abs().max() <= bound


def test_attention_implementations_reach_every_layer(models):
    """The bridge's packed masks need one that takes them; the choice must reach the configs that the layers read."""
    model = models["qwen2"].model
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})
    assert model.model.language_model.layers[1].self_attn.config._attn_implementation == "eager"
    assert model.model.vision_tower.layers[0].attention.config._attn_implementation == "sdpa"
    model.set_attn_implementation("sdpa")


def test_a_vit_that_cannot_be_exact_is_refused(llm_folders, encoder):
    strange = VisionTransformer(
        img_size=24, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0, qk_norm=True, qkv_bias=False
    )
    stand_in = new_encoder(encoder.config, seed=0).eval()
    stand_in.image.encoder = strange
    with pytest.raises(UserError, match="ViT has norms on query and key, no bias on query, key, value; none of the"):
        assemble(stand_in, load_llm(str(llm_folders["qwen2"])))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is optional")
@pytest.mark.parametrize(("load_in", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_a_quantised_llm_trains_saves_and_reloads(llm_folders, encoder, tmp_path, picture, load_in, kind):
    model = assemble(encoder, load_llm(str(llm_folders["qwen2"]), torch.float32, load_in))
    quantised = {name for name, part in model.model.named_modules() if type(part).__name__ == kind}
    assert len(quantised) == 14 and all(name.startswith("model.language_model.layers.") for name in quantised)
    ids = torch.tensor([model.prompt_ids(QUESTION)])
    pixels = encoder.transform(picture)[None]
    model.connector.requires_grad_(True)
    model.model(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()
    assert model.connector.linear_1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        expected = model.model(input_ids=ids, pixel_values=pixels).logits
    model.save(tmp_path / "vlm")
    again = load(tmp_path / "vlm", "cpu", torch.float32).model
    assert {name for name, part in again.named_modules() if type(part).__name__ == kind} == quantised
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids, pixel_values=pixels).logits, expected, atol=1e-4)
