"""timm ViTs of every shape as stock classes: the same hidden states, the same tokens at the connector."""

from functools import partial

import pytest
import torch
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vlm.encoders.timm import TimmEncoder
from vlm.llava.assembly import assemble
from vlm.llava.parity import connector_input
from vlm.llms.load import load_llm

SIZES = {"img_size": 24, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
NORM = partial(nn.LayerNorm, eps=1e-5)
# What the ViT has: options, the stock class, the layer, and the tokens of 9 patches.
SHAPES = {
    "plain": ({}, "vit", -1, 9),
    "dinov2": ({"init_values": 0.3}, "vit", -1, 9),
    "no position of cls": ({"no_embed_class": True}, "vit", -1, 9),
    "clip": ({"pre_norm": True, "norm_layer": NORM}, "clip_vision_model", -2, 9),
    "openai": ({"pre_norm": True, "norm_layer": NORM, "act_layer": QuickGELU}, "clip_vision_model", -2, 9),
    "siglip": ({"class_token": False, "global_pool": "map"}, "siglip_vision_model", -1, 9),
    "siglip2": ({"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"}, "siglip_vision_model", -1, 9),
    "siglip gap": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "siglip_vision_model", -1, 9),
    "reg4 dinov2": (
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.3}, "dinov2_with_registers", -1, 13,
    ),
    "reg4 with positions": ({"reg_tokens": 4}, "dinov2_with_registers", -1, 13),
}  # fmt: skip


def vit(options: dict) -> VisionTransformer:
    """A ViT none of whose weights is at a special value."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VisionTransformer(**SIZES, **options).eval().requires_grad_(False)
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [24, 40])
@torch.no_grad()
def test_the_connector_is_given_timms_tokens(shape, size, llm_folders):
    options, kind, layer, tokens = SHAPES[shape]
    source = vit(options)
    encoder = TimmEncoder(source)
    if size == 40:
        encoder = encoder.resized(40)
        assert source.patch_embed.img_size == (24, 24)  # the first is left as it was
        source.set_input_size(img_size=(40, 40))  # timm's own interpolation
        tokens += 25 - 9
    vlm = assemble(encoder, load_llm(str(llm_folders["llama"]), torch.float32))
    config = vlm.model.config
    found = (config.vision_config.model_type, config.vision_feature_layer, config.image_seq_length)
    assert found == (kind, layer, tokens)
    pixels = torch.linspace(-1.5, 1.5, 2 * 3 * size * size).reshape(2, 3, size, size)
    if kind in ("vit", "siglip_vision_model"):
        expected = source.forward_features(pixels)
    else:  # CLIP before its last block; registers before the norm
        expected = source.forward_intermediates(
            pixels,
            indices=[2 if layer == -1 else 1],
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]
        expected = torch.cat([expected[1], expected[0]], 1)
    expected = expected if kind == "siglip_vision_model" else expected[:, 1:]
    torch.testing.assert_close(connector_input(vlm.model, pixels), expected, atol=2.5e-5, rtol=2.5e-5)


def test_a_name_with_a_size():
    from vlm.encoders.naming import parse_timm
    from vlm.encoders.timm import random_timm_encoder

    assert parse_timm("vit@384") == ("vit", 384, None)
    assert parse_timm("vit@384@a/b.safetensors") == ("vit", 384, "a/b.safetensors")
    assert parse_timm("vit@b.safetensors") == ("vit", None, "b.safetensors")
    encoder = random_timm_encoder("test_vit@96", 0)
    assert (encoder.config.image_size, encoder.patch_tokens(torch.zeros(1, 3, 96, 96)).shape) == (96, (1, 36, 64))
