"""The encoder against plain timm, transformers and torch modules, on disk in the released layout."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from tiny.encoders import encoder_config
from tokenizers import Tokenizer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import MLP
from transformers import GPT2Config, GPT2Model
from transformers.activations import NewGELUActivation

import vlm
from vlm.encoders.baselines import random_encoder
from vlm.encoders.levljepa import new_encoder
from vlm.encoders.tokens import CaptionTokenizer
from vlm.errors import UserError

CAPTIONS = ["a red star", "two large green fish next to a very small blue moon", "key"]


def heads(width, hidden=48, embed=16, depth=2):
    pre = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, embed))
    predictor = MLP(embed, [hidden] * depth + [embed], norm_layer=nn.BatchNorm1d, activation_layer=nn.GELU)
    for module in [*pre, *predictor]:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return pre.eval(), predictor.eval()


def prefixed(**modules):
    return {
        f"{prefix}.{key}": value for prefix, module in modules.items() for key, value in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as published, whose config lacks pixel statistics and patch size; and the modules it was saved from."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("released")
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0, dynamic_img_size=True
    ).eval()
    tokenizer = CaptionTokenizer.train(CAPTIONS, 300)
    tokenizer.save(folder / "tokenizer.json")
    gpt = GPT2Model(
        GPT2Config(
            n_embd=32, n_layer=2, n_head=2, vocab_size=tokenizer.vocab_size, embd_pdrop=0, attn_pdrop=0, resid_pdrop=0
        )
    ).eval()
    image_pre, image_predictor = heads(24)
    text_pre, text_predictor = heads(32)
    save_file(
        prefixed(encoder=vit, pre_proj=image_pre, projector=image_predictor), folder / "vision_encoder.safetensors"
    )
    save_file(prefixed(encoder=gpt, pre_proj=text_pre, projector=text_predictor), folder / "text_encoder.safetensors")
    config = {
        "model_type": "levljepa",
        "model_size": "base",
        "vision_encoder": {"architecture": "vit", "hidden_size": 24, "num_layers": 2, "num_heads": 2},
        "text_encoder": {
            "architecture": "gpt2",
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": tokenizer.vocab_size,
        },
        "embed_dim": 16,
        "projector_width": 48,
        "projector_depth": 2,
        "training": {"steps": 1},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, vit, gpt, image_pre, image_predictor, text_pre, text_predictor


@torch.no_grad()
def test_numbers_agree_with_plain_modules(released):
    folder, vit, gpt, image_pre, image_predictor, text_pre, text_predictor = released
    encoder = vlm.load_encoder(folder)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = vit.forward_features(pixels)
    assert torch.allclose(encoder.patch_tokens(pixels), tokens[:, 1:], atol=1e-5)
    assert torch.allclose(encoder.image.features(pixels), tokens[:, 0], atol=1e-5)
    z_v = encoder.embed_images(pixels)
    assert torch.allclose(z_v, image_pre(tokens[:, 0]), atol=1e-5)
    assert torch.allclose(encoder.predict_text(z_v), image_predictor(z_v), atol=1e-5)

    # One caption at a time, end of text appended, nothing padded: the slow way to the same readout.
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [[*backend.encode(caption).ids, backend.token_to_id("<|endoftext|>")] for caption in CAPTIONS]
    read = torch.cat([gpt(torch.tensor([row])).last_hidden_state[:, -1] for row in rows])
    z_t = encoder.embed_texts(CAPTIONS)
    assert torch.allclose(z_t, text_pre(read), atol=1e-5)
    assert torch.allclose(encoder.predict_image(z_t), text_predictor(z_t), atol=1e-5)


class DeviceReads(TorchDispatchMode):
    """Counts the operations that make a GPU's host wait for a value."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_caption_tower_is_transformers_gpt2_without_its_device_reads(attention):
    tower = new_encoder(encoder_config(), seed=0).text.eval()
    tower.encoder.set_attn_implementation(attention)
    ids, lengths = torch.arange(14).view(2, 7), torch.tensor([7, 3])
    with torch.no_grad():
        with DeviceReads() as stock:
            hidden = tower.encoder(input_ids=ids).last_hidden_state
        with DeviceReads() as ours:
            features = tower.features(ids, lengths)
    assert torch.equal(features, torch.stack([hidden[0, 6], hidden[1, 2]]))
    assert (stock.count, ours.count) == (1, 0)


def test_gpt2s_activation_is_one_kernel_of_the_same_function():
    x = torch.linspace(-8, 8, 4001)
    fused = new_encoder(encoder_config(), seed=0).text.encoder.h[0].mlp.act
    assert (fused(x) - NewGELUActivation()(x)).abs().max() < 2e-6


def test_pixels_are_normalised_with_clip_statistics_unless_told_otherwise(released):
    grey = Image.fromarray(np.full((10, 20, 3), 102, np.uint8))
    pixels = vlm.load_encoder(released[0]).transform(grey)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32
    expected = (0.4 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    assert torch.allclose(pixels[:, 5, 5], expected, atol=1e-6)
    half = (0.5, 0.5, 0.5)
    other = vlm.load_encoder(released[0]).with_config(mean=half, std=half).transform(grey)
    assert torch.allclose(other[:, 5, 5], torch.full((3,), -0.2), atol=1e-6)


@torch.no_grad()
def test_saving_and_loading_changes_nothing(released, tmp_path):
    encoder = vlm.load_encoder(released[0])
    encoder.save(tmp_path / "copy")
    copy = vlm.load_encoder(tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "levlm_manifest.json",
        "tokenizer.json",
        "vision_encoder.safetensors",
        "text_encoder.safetensors",
    }
    assert copy.config == encoder.config and copy.config.patch_size == 8 and copy.config.image_size == 32
    assert torch.equal(copy.embed_texts(CAPTIONS), encoder.embed_texts(CAPTIONS))


@torch.no_grad()
def test_an_encoder_without_predictors_reads_as_plain_cosine(tmp_path):
    sizes = encoder_config(projector_depth=0, logit_scale=2.6592600369327779, logit_bias=-10.5)
    new_encoder(sizes, seed=0).save(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    assert config["projector_depth"] == 0
    assert (config["logit_scale"], config["logit_bias"]) == (2.6592600369327779, -10.5)
    encoder = vlm.load_encoder(tmp_path / "clip")
    assert (encoder.config.logit_scale, encoder.config.logit_bias) == (2.6592600369327779, -10.5)
    z = encoder.embed_images(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert encoder.predict_text(z) is z and encoder.predict_image(z) is z
    assert not any(name.startswith("projector") for name in encoder.image.state_dict())


def test_random_weights_depend_on_the_seed_alone(released):
    torch.manual_seed(5)
    first = random_encoder(released[0], seed=3)
    before = torch.get_rng_state()
    torch.manual_seed(6)
    again, other = random_encoder(released[0], seed=3), random_encoder(released[0], seed=4)
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.vision.blocks[0].attn.qkv.weight, again.vision.blocks[0].attn.qkv.weight)
    assert not torch.equal(first.vision.blocks[0].attn.qkv.weight, other.vision.blocks[0].attn.qkv.weight)


def test_captions_are_cut_to_76_tokens_and_end_with_end_of_text():
    tokenizer = CaptionTokenizer.train(["a b c"], 257)
    ids, lengths = tokenizer(["b" * 100, "c<|endoftext|>"])
    assert lengths.tolist() == [77, 15]  # a control token that is spelt out stays text, letter by letter
    assert ids.shape == (2, 77) and ids[0, 76] == tokenizer.end and (ids[1, 14:] == tokenizer.end).all()
    assert (ids[0, :76] != tokenizer.end).all() and (ids[1, :14] != tokenizer.end).all()


def test_what_is_no_batch_is_one_line(released):
    encoder = vlm.load_encoder(released[0])
    for texts, named in (("a red star", "'a red star'"), ([], r"'\[\]'"), ([None], r"'\[None\]'"), (None, "'None'")):
        with pytest.raises(UserError, match=f"{named} is no list of captions: give a list of strings, at least one"):
            encoder.embed_texts(texts)
    with pytest.raises(UserError, match=r"^not valid Unicode text: '\\udcff'$"):
        encoder.embed_texts(["a", "\udcff"])
    pixels = torch.zeros(1, 3, 32, 32)
    blocks = len(encoder.vision.blocks)
    assert torch.equal(encoder.layer_tokens(pixels, -1), encoder.layer_tokens(pixels, blocks))
    for layer in (blocks + 1, -blocks - 2):
        with pytest.raises(
            UserError, match=rf"^layer {layer}: give 0 to {blocks} or, from the end, -1 to -{blocks + 1}$"
        ):
            encoder.layer_tokens(pixels, layer)
    for read in (encoder.patch_tokens, encoder.features, encoder.embed_images, partial(encoder.layer_tokens, layer=-1)):
        for wrong, named in (
            (pixels[0], r"float32\[3, 32, 32\]"),
            (pixels[:0], r"float32\[0, "),
            (pixels[:, :1], r"float32\[1, 1,"),
            ([], "list"),
        ):
            with pytest.raises(UserError, match=f"^{named}.* is no batch of pixels"):
                read(wrong)


def test_bad_folders_give_one_clear_line(released, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        vlm.load_encoder(tmp_path)
    new_encoder(encoder_config(), seed=0).save(tmp_path / "small")
    (tmp_path / "small" / "levlm_manifest.json").unlink()  # as in a released folder
    weights = tmp_path / "small" / "vision_encoder.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        vlm.load_encoder(tmp_path / "small")
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config["vision_encoder"]["num_layers"] = 2
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit its config"):
        vlm.load_encoder(tmp_path / "small")


def test_sizes_that_config_json_lacks_come_from_the_weights(tmp_path):
    sizes = encoder_config(vision_width=64, vision_heads=1, text_width=128, text_heads=2, vision_layers=2)
    new_encoder(sizes, seed=0).save(tmp_path / "encoder")
    (tmp_path / "encoder/levlm_manifest.json").unlink()
    (tmp_path / "encoder/config.json").write_text("{}")  # heads are then 64 wide, as in every published size
    assert vlm.load_encoder(tmp_path / "encoder").config == sizes
    assert vlm.load_encoder(tmp_path / "encoder", heads=4).config.vision_heads == 4
    new_encoder(encoder_config(projector_depth=0), seed=0).save(tmp_path / "narrow")
    (tmp_path / "narrow/levlm_manifest.json").unlink()
    (tmp_path / "narrow/config.json").write_text("{}")
    with pytest.raises(UserError, match="does not say how many attention heads the 16 wide tower has: give --heads N"):
        vlm.load_encoder(tmp_path / "narrow")
    narrow = vlm.load_encoder(tmp_path / "narrow", heads=2).config
    assert (narrow.projector_depth, narrow.vision_heads, narrow.text_heads) == (0, 2, 2)


HUB = """
import sys, vlm
from vlm.encoders.by_name import open_encoder
for name in sys.argv[1:]:
    print(open_encoder(name).config.embed_dim, vlm.load_encoder(name.removeprefix("random:")).config.patch_size)
"""


def test_the_released_id_is_found_in_the_hubs_cache_and_says_its_licence_once(released, tmp_path):
    name = "lukaskuhndkfz/LeVLJEPA-ViT-B-DataComp-200k"
    cache = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(released[0], cache / "snapshots/abc")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)

    def run(*names):
        return subprocess.run([sys.executable, "-c", HUB, *names], capture_output=True, text=True, env=environment)

    done = run(name, f"random:{name}")
    assert done.stdout == "16 8\n16 8\n", done.stderr
    assert done.stderr.count("CC-BY-NC-4.0, for non-commercial use only") == 1
    done = run("someone/else")
    assert "someone/else is no folder, is not in the local Hugging Face cache, and the hub cannot be" in done.stderr


def test_images_of_another_size(released):
    encoder = vlm.load_encoder(released[0])
    other = encoder.resized(48)
    assert (other.config.image_size, encoder.config.image_size) == (48, 32)
    pixels = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)
    # The ViT itself takes any size, and interpolates on the way.
    torch.testing.assert_close(other.patch_tokens(pixels), encoder.patch_tokens(pixels))
    assert other.patch_tokens(pixels).shape == (1, 36, 24)
