"""The step is the same function whatever the micro-batch size; what decays is what should."""

import pytest
import torch

from pretrain.batchnorm import GlobalBatchNorm1d
from pretrain.model import Pretrainer, parameter_groups, read_cls_alone, text_features, use_fast_attention
from pretrain.objective import levljepa
from vlm.encoder import new_encoder
from vlm.encoder_config import EncoderConfig

SIZES = EncoderConfig(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, text_width=16, text_layers=2,
    text_heads=2, vocab_size=50, positions=12, embed_dim=8, projector_width=24, projector_depth=2,
)  # fmt: skip


def one_step(micro_batch_size):
    encoder = new_encoder(SIZES, seed=0, norm=GlobalBatchNorm1d)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(64, 3, 16, 16, generator=generator)
    ids = torch.randint(0, 50, (64, 12), generator=generator)
    lengths = torch.randint(1, 13, (64,), generator=generator)
    model = Pretrainer(encoder, micro_batch_size)
    loss, metrics = levljepa(
        model(pixels, ids, lengths), lambda_image=0.02, lambda_text=0.02, directions=32, seed=0, step=0
    )
    loss.backward()
    return (
        loss,
        metrics,
        {name: value.grad for name, value in encoder.named_parameters()},
        dict(encoder.named_buffers()),
    )


def test_one_batch_of_64_equals_four_of_16():
    loss, _, gradients, buffers = one_step(0)
    cached_loss, _, cached_gradients, cached_buffers = one_step(16)
    assert torch.allclose(loss, cached_loss, rtol=0, atol=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, cached_gradients[name], rtol=0, atol=1e-5), name
    for name, buffer in buffers.items():  # BatchNorm's running statistics among them: the heads see the batch once
        assert torch.allclose(buffer, cached_buffers[name], rtol=0, atol=1e-6), name


def test_loss_is_the_formula():
    loss, m, *_ = one_step(0)
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
    ids = torch.randint(0, 50, (13, 12), generator=generator)
    lengths = torch.randint(1, 13, (13,), generator=generator)
    assert torch.allclose(text_features(encoder.text, ids, lengths), encoder.text.features(ids, lengths), atol=1e-5)


def test_only_matrices_decay():
    encoder = new_encoder(SIZES, seed=0)
    decayed, kept = parameter_groups(encoder, 0.1)
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    kept_names = {names[id(parameter)] for parameter in kept["params"]}
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    assert len(decayed_names) + len(kept_names) == len(names)
    assert {"image.encoder.cls_token", "image.encoder.pos_embed", "text.encoder.wte.weight", "text.encoder.wpe.weight",
            "image.pre_proj.1.weight", "image.encoder.norm.weight", "text.projector.0.bias"} <= kept_names  # fmt: skip
    assert {"image.encoder.blocks.0.attn.qkv.weight", "image.encoder.patch_embed.proj.weight",
            "text.encoder.h.1.mlp.c_fc.weight", "image.projector.8.weight"} <= decayed_names  # fmt: skip
