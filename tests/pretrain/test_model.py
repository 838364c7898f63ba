"""Fast paths change no feature, several views go through one ViT, and only matrices decay."""

from dataclasses import replace

import pytest
import torch
from tiny.encoders import encoder_config

from pretrain.batchnorm import GlobalBatchNorm1d
from pretrain.contrastive import LogitScale
from pretrain.model import Pretrainer, parameter_groups, read_cls_alone, text_features, use_fast_attention
from pretrain.objective import levljepa
from vlm.encoders.levljepa import new_encoder

SIZES = encoder_config(
    vision_layers=2, text_layers=2, text_heads=2, vocab_size=50, positions=12, projector_width=24, projector_depth=2
)


def one_step():
    encoder = new_encoder(SIZES, seed=0, norm=GlobalBatchNorm1d)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(64, 3, 16, 16, generator=generator)
    ids = torch.randint(0, 50, (64, 12), generator=generator)
    lengths = torch.randint(1, 13, (64,), generator=generator)
    model = Pretrainer(encoder)
    return levljepa(model(pixels, ids, lengths), lambda_image=0.02, lambda_text=0.02, directions=32, seed=0, step=0)


def test_loss_is_the_formula():
    loss, m = one_step()
    expected = 0.96 * 0.5 * (m["predict_text"] + m["predict_image"]) + 0.02 * (m["sigreg_image"] + m["sigreg_text"])
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)


def test_plain_attention_gives_the_same_features():
    encoder = new_encoder(SIZES, seed=0).eval()
    pixels, ids = torch.randn(2, 3, 16, 16), torch.tensor([[1, 2, 3], [4, 5, 5]])
    with torch.no_grad():
        before = encoder.image.features(pixels), encoder.text.features(ids, torch.tensor([3, 2]))
        use_fast_attention(encoder, torch.device("cpu"))
        after = encoder.image.features(pixels), encoder.text.features(ids, torch.tensor([3, 2]))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after))


@torch.no_grad()
def test_shortcuts_change_no_feature():
    encoder = new_encoder(SIZES, seed=0).eval()
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    expected = encoder.image.features(pixels)
    read_cls_alone(encoder.vision)
    assert torch.allclose(encoder.image.features(pixels), expected, atol=1e-5)
    ids = torch.randint(0, 50, (70, 12), generator=generator)
    lengths = torch.randint(1, 13, (70,), generator=generator)
    assert torch.allclose(text_features(encoder.text, ids, lengths), encoder.text.features(ids, lengths), atol=1e-5)


@torch.no_grad()
def test_crops_of_two_sizes_go_through_one_vit():
    """Each view alone through timm's ViT, BatchNorm over all views' rows, centre = mean of the global views."""
    model = Pretrainer(new_encoder(SIZES, seed=0))
    encoder = new_encoder(SIZES, seed=0)
    generator = torch.Generator().manual_seed(3)
    crops = [torch.randn(5, 2, 3, 16, 16, generator=generator), torch.randn(5, 4, 3, 8, 8, generator=generator)]
    ids, lengths = torch.ones(5, 3, dtype=torch.long), torch.full((5,), 3)
    e = model(crops, ids, lengths)
    features = [encoder.vision(part[:, view]) for part in crops for view in range(part.shape[1])]
    views = encoder.image.pre_proj(torch.cat(features)).view(6, 5, 8)
    torch.testing.assert_close(e.views, views, rtol=0, atol=1e-5)
    torch.testing.assert_close(e.z_v, (views[0] + views[1]) / 2, rtol=0, atol=1e-5)


def test_only_matrices_decay():
    sizes = replace(SIZES, vision_layers=1, text_layers=1, projector_depth=1)
    model = Pretrainer(new_encoder(sizes, seed=0), logit_scale=LogitScale("siglip"))
    decayed, kept = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    block, layer = "encoder.image.encoder.blocks.0", "encoder.text.encoder.h.0"
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "encoder.image.encoder.patch_embed.proj.weight",
        f"{block}.attn.qkv.weight", f"{block}.attn.proj.weight", f"{block}.mlp.fc1.weight", f"{block}.mlp.fc2.weight",
        f"{layer}.attn.c_attn.weight", f"{layer}.attn.c_proj.weight", f"{layer}.mlp.c_fc.weight",
        f"{layer}.mlp.c_proj.weight",
        *(f"encoder.{tower}.{head}.weight" for tower in ("image", "text")
          for head in ("pre_proj.0", "pre_proj.3", "projector.0", "projector.4")),
    }  # fmt: skip
    assert {names[id(parameter)] for parameter in kept["params"]} == {
        "logits.scale", "logits.bias",
        "encoder.image.encoder.cls_token", "encoder.image.encoder.pos_embed",
        "encoder.text.encoder.wte.weight", "encoder.text.encoder.wpe.weight",
        "encoder.image.encoder.patch_embed.proj.bias",
        *(f"encoder.image.encoder.norm.{kind}" for kind in ("weight", "bias")),
        *(f"{block}.{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")),
        *(f"{block}.{part}.bias" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
        *(f"encoder.text.encoder.ln_f.{kind}" for kind in ("weight", "bias")),
        *(f"{layer}.{norm}.{kind}" for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")),
        *(f"{layer}.{part}.bias" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        *(f"encoder.{tower}.{head}.bias" for tower in ("image", "text")
          for head in ("pre_proj.0", "pre_proj.3", "projector.0", "projector.4")),
        *(f"encoder.{tower}.{norm}.{kind}" for tower in ("image", "text")
          for norm in ("pre_proj.1", "projector.1") for kind in ("weight", "bias")),
    }  # fmt: skip
