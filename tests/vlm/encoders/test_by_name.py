"""Encoders by the name that a command is given, and an encoder with another config."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from vlm.encoders.baselines import blind_encoder
from vlm.encoders.by_name import open_encoder
from vlm.encoders.levljepa import Encoder
from vlm.encoders.timm import TimmEncoder
from vlm.errors import UserError

PIXELS = torch.linspace(-1, 1, 2 * 3 * 24 * 24).reshape(2, 3, 24, 24)


@pytest.fixture
def folder(encoder, tmp_path):
    encoder.save(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def test_a_folder_as_it_is_and_with_random_weights(encoder, folder):
    opened = open_encoder(folder)
    assert isinstance(opened, Encoder) and opened.config == encoder.config
    assert torch.equal(opened.patch_tokens(PIXELS), encoder.patch_tokens(PIXELS))
    first, again, other = (open_encoder(f"random:{folder}", seed) for seed in (1, 1, 2))
    assert first.config == encoder.config
    assert torch.equal(first.patch_tokens(PIXELS), again.patch_tokens(PIXELS))
    assert not torch.allclose(first.patch_tokens(PIXELS), other.patch_tokens(PIXELS))


def test_timm_with_weights_and_without(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    opened = open_encoder(f"timm:test_vit@{tmp_path / 'vit.safetensors'}")
    assert isinstance(opened, TimmEncoder) and torch.equal(opened.vision.pos_embed, vit.pos_embed)
    first, other = (open_encoder("random:timm:test_vit", seed) for seed in (1, 2))
    assert not torch.equal(first.vision.pos_embed, other.vision.pos_embed)


def test_blind():
    opened = open_encoder("blind", seed=3)
    tokens = opened.patch_tokens(torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
    assert tokens.shape == (2, 16, 128) and torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], blind_encoder(3).patch_tokens(torch.zeros(1, 3, 48, 48))[0])


@pytest.mark.parametrize("name", ["FOLDER", "random:FOLDER", "random:timm:test_vit", "blind"])
def test_every_encoder_is_frozen_and_takes_another_normalisation(folder, name):
    opened = open_encoder(name.replace("FOLDER", folder), normalisation="imagenet")
    assert not opened.training and not any(parameter.requires_grad for parameter in opened.parameters())
    assert (opened.config.mean, opened.config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert opened.transform.mean == (0.485, 0.456, 0.406)


def test_what_is_not_there():
    with pytest.raises(UserError, match=r"none is neither a folder nor a hub id \(OWNER/NAME\)"):
        open_encoder("random:none")
    with pytest.raises(UserError, match="timm has no model 'vit_none'"):
        open_encoder("random:timm:vit_none")


def test_another_config_shares_the_weights_and_leaves_the_first_as_it_was(encoder):
    twin = encoder.with_config(logit_scale=2.5)
    assert (twin.config.logit_scale, encoder.config.logit_scale) == (2.5, None)
    assert twin.config.mean == encoder.config.mean
    assert twin.image is encoder.image and twin.vision is encoder.vision


def test_heads_are_refused_where_they_are_known(encoder, folder):
    own = encoder.config.vision_heads
    assert open_encoder(folder, heads=own).heads == own
    for name in (folder, f"random:{folder}", "blind", "random:timm:test_vit"):
        with pytest.raises(UserError, match=rf"^--heads 16: {name} has \d attention heads, and says so: leave it out"):
            open_encoder(name, heads=16)
