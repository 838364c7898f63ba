"""Encoders of Hugging Face's classes inside a stock LLaVA: what arrives at the connector, here and in stock code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import pictures
from tiny.stock_vits import KINDS, build, write_stock_vit
from transformers import AutoImageProcessor

from vlm.encoders.by_name import open_encoder
from vlm.encoders.hub_pixels import read_pixels
from vlm.errors import UserError
from vlm.files import write_json
from vlm.llava.assembly import assemble
from vlm.llava.folder import load_folder
from vlm.llava.parity import connector_input
from vlm.llava.parts import tower_tokens
from vlm.llava.tower import describe_tower
from vlm.llms.load import load_llm

PIXELS = torch.linspace(-1.5, 1.5, 2 * 3 * 24 * 24).reshape(2, 3, 24, 24)
QUESTION = "What color is the star?"

# The class in the folder, layer, strategy, tokens of 9 patches, and how many others LlavaProcessor counts.
TABLE = {
    "clip": ("clip_vision_model", -2, "default", 9, 1),
    "clip_vision": ("clip_vision_model", -2, "default", 9, 1),
    "siglip": ("siglip_vision_model", -1, "full", 9, 0),
    "siglip_vision": ("siglip_vision_model", -1, "full", 9, 0),
    "vit": ("vit", -1, "default", 9, 1),
    "dinov2": ("vit", -1, "default", 9, 1),
    "dinov2_swiglu": ("dinov2", -1, "default", 9, 1),
    "dinov2_registers": ("dinov2_with_registers", -1, "default", 13, 5),
    "dinov3": ("dinov3_vit", -1, "default", 13, 5),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vits")
    return {kind: write_stock_vit(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def llm(llm_folders):
    return load_llm(str(llm_folders["llama"]), torch.float32)


@torch.no_grad()
def stock_tokens(kind: str, pixels: torch.Tensor, layer: int) -> torch.Tensor:
    """What the model's own code gives: a hidden state without CLS; the last one of some after the final norm."""
    model, _ = build(kind)
    vision = getattr(model, "vision_model", model)
    output = vision(pixels, output_hidden_states=True)
    after_norm = layer == -1 and kind in ("siglip", "siglip_vision", "vit", "dinov2")
    tokens = output.last_hidden_state if after_norm else output.hidden_states[layer]
    return tokens if kind.startswith("siglip") else tokens[:, 1:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_connector_is_given_the_models_own_tokens(folders, llm, kind):
    vlm = assemble(open_encoder(f"hf:{folders[kind]}"), llm)
    config, processor = vlm.model.config, vlm.processor
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    found = (config.vision_config.model_type, layer, strategy, config.image_seq_length)
    assert (*found, processor.num_additional_image_tokens) == TABLE[kind]
    expected = stock_tokens(kind, PIXELS, layer)
    atol = 2.5e-5 if kind == "dinov2" else 0  # its layer scale is folded into weights
    torch.testing.assert_close(connector_input(vlm.model, PIXELS), expected, atol=atol, rtol=atol)
    torch.testing.assert_close(tower_tokens(vlm.model, PIXELS), expected, atol=atol, rtol=atol)
    assert expected.shape == (2, TABLE[kind][3], 24)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_another_layer(folders, llm, kind, layer):
    vlm = assemble(open_encoder(f"hf:{folders[kind]}"), llm, feature_layer=layer)
    assert vlm.model.config.vision_feature_layer == layer
    expected = stock_tokens(kind, PIXELS, layer)
    atol = 2.5e-5 if kind == "dinov2" else 0
    torch.testing.assert_close(connector_input(vlm.model, PIXELS), expected, atol=atol, rtol=atol)


@pytest.mark.parametrize("layer", [0, 4, -5])
def test_layers_that_are_not_there(folders, llm, layer):
    with pytest.raises(UserError, match=f"--feature-layer {layer}: give 1 to 3 or, from the end, -1 to -4"):
        assemble(open_encoder(f"hf:{folders['vit']}"), llm, feature_layer=layer)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("dinov2_")])
def test_another_size_is_the_models_own_interpolation(folders, llm, kind):
    encoder = open_encoder(f"hf:{folders[kind]}", image_size=40)
    vlm = assemble(encoder, llm, feature_layer=-2)
    pixels = torch.linspace(-1.5, 1.5, 3 * 40 * 40).reshape(1, 3, 40, 40)
    model, _ = build(kind)
    vision = getattr(model, "vision_model", model)
    options = {} if kind.startswith("dino") else {"interpolate_pos_encoding": True}
    expected = vision(pixels, output_hidden_states=True, **options).hidden_states[-2]
    expected = expected if kind.startswith("siglip") else expected[:, 1:]
    torch.testing.assert_close(connector_input(vlm.model, pixels), expected, atol=2e-5, rtol=1e-5)
    assert vlm.model.config.vision_config.image_size == 40
    with pytest.raises(UserError, match="--image-size 30: this encoder's patches are 8 wide, give 24 or 32"):
        open_encoder(f"hf:{folders[kind]}", image_size=30)


def test_images_smaller_than_a_patch(folders, tmp_path):
    with pytest.raises(UserError, match="has patches of 8 pixels and images of 7: no patch fits in"):
        read_pixels(folders["vit"], "vit", 7, 8)
    shutil.copytree(folders["vit"], tmp_path / "vit")
    write_json(tmp_path / "vit/preprocessor_config.json",
               {"image_processor_type": "ViTImageProcessor", "size": {"height": 7, "width": 7}})  # fmt: skip
    with pytest.raises(UserError, match="its processor makes images of 7 pixels, its patches have 8"):
        open_encoder(f"hf:{tmp_path / 'vit'}")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_models_own_processor(folders, llm, kind):
    encoder, picture = open_encoder(f"hf:{folders[kind]}"), pictures.noise(61, 40)
    own = AutoImageProcessor.from_pretrained(folders[kind])(images=picture, return_tensors="pt").pixel_values[0]
    ours = assemble(encoder, llm).processor.image_processor(images=picture, return_tensors="pt").pixel_values[0]
    assert own.shape == ours.shape == (3, 24, 24)
    assert torch.equal(encoder.transform(picture), ours)
    if kind == "dinov3":  # its own class resizes fractions, and rounds to no grey level in between
        levels = (own - ours).abs() * torch.tensor(encoder.config.std)[:, None, None] * 255
        assert levels.max() < 1
    else:
        assert torch.equal(own, ours)


STOCK = """
import json, sys, torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
result = {}
for folder in sys.argv[2:]:
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": Image.open(sys.argv[1])}, {"type": "text", "text": "What color is the star?"}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
                                           tokenize=True, return_dict=True, return_tensors="pt")
    fixed = torch.linspace(-1.5, 1.5, 3 * 24 * 24).reshape(1, 3, 24, 24)
    with torch.no_grad():
        logits = model(**{**inputs, "pixel_values": fixed}).logits[0, -1]
    result[folder] = {"ids": inputs["input_ids"][0].tolist(), "logits": logits.tolist(),
                      "report": sum(len(value) for value in report.values()),
                      "foreign": sorted({name.split(".")[0] for name in sys.modules} & {"vlm", "bridge", "timm"})}
print(json.dumps(result))
"""


def test_a_process_with_transformers_alone_gets_the_same_logits(folders, llm, tmp_path):
    pictures.save(pictures.noise(50, 40), tmp_path / "picture.png")
    models = {}
    for kind, folder in folders.items():
        models[kind] = assemble(open_encoder(f"hf:{folder}"), llm)
        models[kind].connector.linear_2.weight.data.mul_(20)  # the picture matters to a random LLM
        models[kind].save(tmp_path / kind)
    command = [sys.executable, "-c", STOCK, tmp_path / "picture.png", *(tmp_path / kind for kind in models)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads(run.stdout.splitlines()[-1])
    for kind, vlm in models.items():
        stock = results[str(tmp_path / kind)]
        assert stock["foreign"] == [] and stock["report"] == 0
        assert stock["ids"] == vlm.prompt_ids(QUESTION)
        assert stock["ids"].count(vlm.model.config.image_token_index) == TABLE[kind][3]
        with torch.no_grad():
            logits = vlm.model(input_ids=torch.tensor([stock["ids"]]), pixel_values=fixed()).logits
        assert torch.equal(logits[0, -1], torch.tensor(stock["logits"])), kind
        load_folder(tmp_path / kind, "cpu", torch.float32)  # the parity fixture holds


def fixed() -> torch.Tensor:
    return torch.linspace(-1.5, 1.5, 3 * 24 * 24).reshape(1, 3, 24, 24)


def test_the_tower_is_described_in_one_line(folders, llm):
    config = assemble(open_encoder(f"hf:{folders['dinov2_registers']}"), llm).model.config
    assert describe_tower(config) == (
        "vision tower: dinov2_with_registers, hidden state -1 (before the final norm), 24 pixels, 13 tokens, "
        "4 of them registers"
    )
    config = assemble(open_encoder(f"hf:{folders['clip']}"), llm).model.config
    assert describe_tower(config) == "vision tower: clip_vision_model, hidden state -2, 24 pixels, 9 tokens"
