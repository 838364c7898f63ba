"""--init: which weights a run starts from, and what is refused."""

import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny.encoders import text_encoder

from pretrain.config import from_preset
from pretrain.init import open_init
from pretrain.train import build_model
from vlm.encoders.levljepa import load_encoder
from vlm.encoders.tokens import CaptionTokenizer
from vlm.errors import UserError
from vlm.files import read_json, write_json

SIZES = {"image_size": 48, "patch_size": 12, "vision_width": 32, "projector_width": 16, "embed_dim": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    captions = ["a red star and a blue moon"]
    vocab_size = CaptionTokenizer.train(captions, 300).vocab_size
    encoder = text_encoder(captions, vocab_size=vocab_size, **SIZES).with_config(mean=(0.5, 0.5, 0.5))
    encoder.save(tmp_path_factory.mktemp("init") / "encoder")
    return encoder, str(tmp_path_factory.getbasetemp() / "init0" / "encoder")


def started(encoder, init, **changes):
    """The model of a run with the sizes of `encoder`."""
    names = ("image_size", "patch_size", "vision_width", "vision_layers", "vision_heads", "text_width", "text_layers")
    names += ("text_heads", "embed_dim", "projector_width", "projector_depth")
    sizes = {name: getattr(encoder.config, name) for name in names} | {"tokenizer": "train:300"}
    config = from_preset("tiny", init=init, **{**sizes, **changes})
    found = open_init(config)
    return build_model(config, encoder.tokenizer, CPU, found).encoder, found


def test_a_run_starts_from_all_weights_of_an_encoder(trained):
    encoder, folder = trained
    made, found = started(encoder, folder)
    theirs, ours = encoder.state_dict(), made.state_dict()
    positions = "text.encoder.wpe.weight"  # a run has 1,024
    assert torch.equal(ours.pop(positions)[:77], theirs.pop(positions))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if "num_batches" not in name)
    assert made.config.mean == (0.5, 0.5, 0.5)
    assert made.config.training["init_sha256"] == found.digest == found.record()["init_sha256"]
    assert found.describe(made).startswith(f"starting from {folder}: both towers and their heads; pixel mean (0.5,")


def test_the_licence_of_published_weights_stays_with_the_run(trained, tmp_path, capsys):
    encoder, folder = trained
    assert started(encoder, folder)[0].config.training["init_licence"] == "none of others"
    shutil.copytree(folder, tmp_path / "enc")
    (tmp_path / "enc/levlm_manifest.json").unlink()
    config = read_json(tmp_path / "enc/config.json")
    write_json(tmp_path / "enc/config.json", {name: config[name] for name in config if name != "normalization"})
    made, found = started(encoder, str(tmp_path / "enc"))
    assert made.config.training["init_licence"] == found.record()["init_licence"] == "cc-by-nc-4.0"
    made.save(tmp_path / "made")
    capsys.readouterr()
    load_encoder(tmp_path / "made")
    said = "its weights began from others that are CC-BY-NC-4.0, for non-commercial use only"
    assert capsys.readouterr().err == f"{tmp_path / 'made'}: {said}\n"


def test_positions_of_another_image_size_are_interpolated_as_timm_does(trained):
    encoder, folder = trained
    made, found = started(encoder, folder, image_size=96)
    assert torch.equal(made.vision.pos_embed, encoder.resized(96).vision.pos_embed)
    assert "positions are interpolated from 48 to 96 pixels" in found.describe(made)


def test_another_objective_takes_the_towers_and_the_projections(trained):
    encoder, folder = trained
    made, found = started(encoder, folder, objective="siglip", projector_depth=0)
    assert torch.equal(made.image.pre_proj[0].weight, encoder.image.pre_proj[0].weight)
    assert "this objective's predictors are not those of the other one" in found.describe(made)


def test_sizes_and_tokenizers_that_differ_are_one_line(trained):
    encoder, folder = trained
    with pytest.raises(
        UserError, match="has vision_width 32, embed_dim 8, this run 64, 16: give --vision-width 32 --emb"
    ):
        started(encoder, folder, vision_width=64, embed_dim=16)
    other = text_encoder(["quite another set of words"], **SIZES)
    with pytest.raises(UserError, match=r"reads captions by another tokenizer: give --tokenizer .*/tokenizer.json"):
        build_model(from_preset("tiny", init=folder, **_sizes(encoder)), other.tokenizer, CPU, _opened(folder))
    for name in ("hf:openai/clip-vit-base-patch32", "random:x", "blind"):
        with pytest.raises(UserError, match="give a LeVLJEPA folder or hub id, or a timm ViT as timm:NAME"):
            _opened(name)


def _sizes(encoder):
    names = ("image_size", "patch_size", "vision_width", "vision_layers", "vision_heads", "text_width", "text_layers")
    return {name: getattr(encoder.config, name) for name in (*names, "text_heads", "embed_dim", "projector_width",
                                                             "projector_depth")}  # fmt: skip


def _opened(name):
    return open_init(from_preset("tiny", init=name))


def test_a_timm_vit_gives_the_vision_tower_alone(trained, tmp_path):
    encoder, _ = trained
    torch.manual_seed(7)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    name = f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}"
    sizes = {"image_size": 64, "patch_size": 16, "vision_width": 192, "vision_layers": 12, "vision_heads": 3}
    made, found = started(encoder, name, **sizes)
    assert torch.equal(made.vision.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)
    assert made.vision.pos_embed.shape == (1, 17, 192) and made.config.mean == (0.5, 0.5, 0.5)
    assert "the vision tower; the text tower and the heads are random; positions are int" in found.describe(made)
    with pytest.raises(UserError, match="has patch_size 16, this run 8: give --patch-size 16"):
        started(encoder, name, **{**sizes, "patch_size": 8})
