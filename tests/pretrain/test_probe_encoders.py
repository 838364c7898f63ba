"""`pretrain/probe.py` on encoders of other kinds: their own text towers, and how pictures are made square."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import pictures
from tiny.stock_vits import build, write_stock_vit
from transformers import AutoTokenizer

from pretrain import probe
from vlm.encoders.by_name import open_encoder
from vlm.encoders.config import PixelConfig
from vlm.errors import UserError

COLORS = {"red": (220, 30, 30), "blue": (40, 80, 220)}
CAPTIONS = ["a red star", "a blue fish", "a picture"]


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    root, generator = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, color in COLORS.items():
            for index in range(count):
                pictures.save(pictures.speckled(color, 48, 12, generator), root / split / name / f"{index}.jpg")
    return root


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """ADE20K's layout: the left half is red (1), the right half blue (2)."""
    root, generator = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    for split, count in (("training", 6), ("validation", 2)):
        for index in range(count):
            image = pictures.speckled(COLORS["red"], 48, 12, generator)
            image.paste(COLORS["blue"], (24, 0, 48, 48))
            pictures.save(image, root / "images" / split / f"{index}.jpg", quality=95)
            labels = np.ones((48, 48), np.uint8)
            labels[:, 24:] = 2
            pictures.save(Image.fromarray(labels), root / "annotations" / split / f"{index}.png")
    return root


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.probes.heads.MIN_STEPS", 30)
    monkeypatch.setattr("pretrain.probes.heads.LEARNING_RATE", 1e-2)

    def run(encoder, task, data, *flags):
        line = ["probe.py", encoder, "--task", task, "--data", str(data), *flags]
        monkeypatch.setattr(sys, "argv", [*line, "--json", str(tmp_path / "out.json")])
        probe.main()
        return json.loads((tmp_path / "out.json").read_text())

    return run


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_whole_checkpoint_embeds_as_its_own_class(kind, tmp_path):
    folder = write_stock_vit(tmp_path / kind, kind)
    encoder, (model, _) = open_encoder(f"hf:{folder}"), build(kind)
    pixels = torch.linspace(-1.5, 1.5, 2 * 3 * 24 * 24).reshape(2, 3, 24, 24)
    padding = {"padding": "max_length", "max_length": 16} if kind == "siglip" else {"padding": True}
    inputs = AutoTokenizer.from_pretrained(folder)(CAPTIONS, return_tensors="pt", **padding)
    own = {"input_ids": inputs["input_ids"]} | ({} if kind == "siglip" else {"attention_mask": inputs.attention_mask})
    images, texts = encoder.embed_images(pixels), encoder.embed_texts(CAPTIONS)
    torch.testing.assert_close(images, model.get_image_features(pixels).pooler_output)
    torch.testing.assert_close(texts, model.get_text_features(**own).pooler_output)
    assert encoder.embed_dim == images.shape[1] == {"clip": 12, "siglip": 24}[kind]
    assert encoder.predict_text(images) is images and encoder.predict_image(texts) is texts
    with pytest.raises(UserError, match="'a star' is no list of captions"):
        encoder.embed_texts("a star")
    for read in (encoder.embed_images, encoder.patch_tokens, partial(encoder.layer_tokens, layer=-1)):
        with pytest.raises(UserError, match=r"float32\[3, 24, 24\] is no batch of pixels"):
            read(pixels[0])


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit", "dinov2_registers", "dinov3"])
def test_linear_and_segmentation_on_every_kind(command, colors, masks, tmp_path, kind):
    name = f"hf:{write_stock_vit(tmp_path / kind, kind)}"
    assert command(name, "linear", colors)["accuracy"] == 1.0
    assert command(name, "segmentation", masks)["labels"] == 2
    if kind in ("clip", "siglip"):
        assert command(name, "zero-shot", colors)["images"] == 8


def test_what_an_encoder_without_text_cannot_do(command, colors, tmp_path):
    name = f"hf:{write_stock_vit(tmp_path / 'dinov2', 'dinov2')}"
    with pytest.raises(UserError, match="this encoder has no text tower: zero-shot, retrieval and backgrounds compare"):
        command(name, "zero-shot", colors)
    with pytest.raises(UserError, match="masks of segmentation label whole pictures"):
        command(name, "segmentation", colors, "--resize", "crop")


def test_a_random_twin_and_a_timm_vit_are_measured(command, colors, tmp_path):
    folder = write_stock_vit(tmp_path / "vit", "vit")
    (folder / "model.safetensors").unlink()  # a twin needs the config alone
    first, again, other = (command(f"random:hf:{folder}", "linear", colors, "--seed", seed) for seed in "112")
    assert first["accuracy"] == again["accuracy"] and first["ridge"] == again["ridge"]
    assert {first["images"], other["images"]} == {8}
    assert command("random:timm:test_vit", "knn", colors, "--image-size", "32")["train_images"] == 24


def test_crop_is_resize_256_and_centre_crop_224():
    """The official evaluation, in torchvision's words, at 224 pixels and scaled to another size."""
    from torchvision.transforms import v2

    picture = pictures.noise(400, 300)
    for size, short in ((224, 256), (112, 128)):
        config = PixelConfig(image_size=size).resized_by("crop")
        assert config.short_side == short
        encoder = open_encoder("blind").with_config(image_size=size, short_side=config.short_side)
        resize = v2.Resize(short, interpolation=v2.InterpolationMode.BICUBIC)
        pixels = v2.functional.pil_to_tensor(picture)
        expected = v2.CenterCrop(size)(resize(pixels)).float() / 255
        mean, std = (torch.tensor(value)[:, None, None] for value in (encoder.config.mean, encoder.config.std))
        torch.testing.assert_close(encoder.transform(picture), (expected - mean) / std, atol=1e-5, rtol=0)
