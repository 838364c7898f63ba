"""timm's plain ViTs as encoders: their features and statistics, strict weights, one line for what cannot be."""

from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from vlm.encoders.timm import TimmEncoder, random_timm_encoder, timm_encoder
from vlm.errors import UserError
from vlm.llava.assembly import assemble
from vlm.llava.parity import connector_input
from vlm.llms.load import load_llm

NAME = "test_vit"  # timm's own for tests: plain, 160 pixels


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """A ViT as timm publishes one: with a classifier."""
    torch.manual_seed(0)
    vit = timm.create_model(NAME, num_classes=7).eval()
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(vit.state_dict(), file)
    return vit, file


def test_a_file_gives_timms_features_through_a_stock_llava(trained, llm_folders, picture):
    vit, file = trained
    encoder = timm_encoder(f"{NAME}@{file}")
    data = timm.data.resolve_model_data_config(vit)
    assert (encoder.config.mean, encoder.config.std) == (data["mean"], data["std"]) == ((0.5,) * 3,) * 2
    assert (encoder.config.image_size, encoder.config.patch_size) == (160, 16)
    pixels = encoder.transform(picture)[None]
    assert pixels.shape == (1, 3, 160, 160)
    with torch.no_grad():
        expected = vit.forward_features(pixels)[:, 1:]
        assert torch.equal(encoder.patch_tokens(pixels), expected)
    vlm = assemble(encoder, load_llm(str(llm_folders["llama"]), torch.float32))
    torch.testing.assert_close(connector_input(vlm.model, pixels), expected, atol=1e-5, rtol=1e-5)
    assert vlm.model.config.image_seq_length == 100
    assert vlm.processor.image_processor.image_mean == (0.5,) * 3


@pytest.mark.parametrize(
    ("own", "expected"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("lanczos", "bicubic")]
)
def test_pictures_are_resized_by_the_models_own_filter(llm_folders, own, expected):
    vit = timm.create_model(NAME, num_classes=0)
    vit.pretrained_cfg = {**vit.pretrained_cfg, "interpolation": own}
    encoder = TimmEncoder(vit)
    assert encoder.config.resample == encoder.resized(32).config.resample == expected
    vlm = assemble(encoder, load_llm(str(llm_folders["llama"]), torch.float32))
    assert vlm.processor.image_processor.resample == {"bilinear": 2, "bicubic": 3}[expected]


def test_what_is_no_batch_of_pixels_is_one_line():
    encoder = random_timm_encoder(NAME, seed=0)
    for read in (encoder.patch_tokens, encoder.features, partial(encoder.layer_tokens, layer=-1)):
        with pytest.raises(UserError, match=r"^float32\[3, 160, 160\] is no batch of pixels"):
            read(torch.zeros(3, 160, 160))


def test_weights_without_a_file_are_the_hubs(trained, monkeypatch):
    vit, file = trained
    asked = []

    def download(repository, **choice):
        asked.append((repository, choice["repo_type"], choice["allow_patterns"]))
        return str(file.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    encoder = timm_encoder(NAME)
    assert asked == [("timm/test_vit.r160_in1k", "model", ["model.safetensors"])]
    assert torch.equal(encoder.vision.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (LocalEntryNotFoundError("offline"), "cannot be reached: go online once"),
        (GatedRepoError.__new__(GatedRepoError), "is gated: accept its licence at https://hugging"),
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "the hub has no such model"),
        (None, "has no model.safetensors"),
    ],
)
def test_weights_that_the_hub_does_not_give_are_one_line(monkeypatch, tmp_path, error, cause):
    def refuse(*_, **__):
        if error is not None:
            raise error
        return str(tmp_path)  # a snapshot without weights

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError) as raised:
        timm_encoder(NAME)
    assert str(raised.value).startswith("timm/test_vit.r160_in1k ")
    assert cause in str(raised.value)
    assert str(raised.value).endswith(f"give timm:{NAME}@FILE.safetensors, or random:timm:{NAME} for random weights")


def test_random_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (random_timm_encoder(NAME, seed).vision.pos_embed for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def change(file: Path, folder: Path, **weights: torch.Tensor | None) -> Path:
    tensors = {name: value for name, value in {**load_file(file), **weights}.items() if value is not None}
    save_file(tensors, folder / "changed.safetensors")
    return folder / "changed.safetensors"


def test_weights_that_do_not_fit_are_refused(trained, tmp_path):
    file = trained[1]
    for weights, message in (
        ({"norm.weight": None}, r"does not fit timm's test_vit: missing \['norm.weight'\]"),
        ({"more": torch.ones(1)}, r"unexpected \['more'\]"),
        ({"norm.bias": torch.full((64,), torch.nan)}, "holds NaN"),
        ({"norm.bias": torch.ones(5)}, "does not fit timm's test_vit: size mismatch"),
    ):
        with pytest.raises(UserError, match=message):
            timm_encoder(f"{NAME}@{change(file, tmp_path, **weights)}")
    with pytest.raises(UserError, match=r"none\.safetensors does not exist: give the model\.saf"):
        timm_encoder(f"{NAME}@none.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>")
    with pytest.raises(UserError, match="cannot be read"):
        timm_encoder(f"{NAME}@{tmp_path / 'page.safetensors'}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tinny_patch16_224", "timm has no model 'vit_tinny_patch16_224': did you mean vit_tiny_patch16_224"),
        (f"{NAME}.nope", r"Invalid pretrained tag \(nope\) .* See timm.list_pretrained"),
        ("resnet18", "this encoder is timm's ResNet; none of the stock classes"),
        ("vit_small_patch16_18x2_224", r"ViT has blocks of another kind \(ParallelThingsBlock\)"),
    ],
)
def test_names_that_cannot_serve(name, message):
    with pytest.raises(UserError, match=message):
        random_timm_encoder(name, seed=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_wee_patch16_reg1_gap_256",
            "has register tokens without a class token, no norm after the blocks; none of",
        ),
        ("vit_tiny_r_s16_p8_224", r"has patches of another kind \(HybridEmbed\); none of"),
        ("vit_giant_patch14_dinov2", r"has an MLP of another kind \(SwiGLUPacked\)|GluMlp|SwiGLU"),
        ("vit_small_patch16_dinov3", "is timm's Eva; none of"),
        ("deit_tiny_distilled_patch16_224", r"has parts that no stock class has \(dist_token\)"),
    ],
)
def test_vits_that_no_stock_class_can_hold_are_refused_before_a_download(name, message, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("weights were asked for"))
    with pytest.raises(UserError, match=message):
        timm_encoder(name)
