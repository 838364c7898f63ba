"""The frozen ViT inside a stock LLaVA: which class it is, which of its hidden states is read, and what arrives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel, ViTConfig, ViTModel

from vlm.encoders.base import VisionEncoder
from vlm.encoders.stock import AFTER_LAST_NORM, model_with, zero_pooler
from vlm.errors import UserError

if TYPE_CHECKING:  # chat loads no timm
    from transformers import LlavaConfig

# Classes whose last hidden state comes after the final norm if their config says so: `tie_last_hidden_states`. In the
# DINO classes no setting moves it, and CLIP's own code puts its norm on CLS alone.
AFTER_NORM = ("vit", "siglip_vision_model")


@dataclass(frozen=True)
class StockTower:
    """A stock ViT and how LLaVA reads it.

    layer: of its hidden states, 0 .. blocks or from the end. strategy: `default` drops the first token, `full` none.
    tokens: what arrives at the connector for an image. prefix: tokens before the patches (CLS, registers).
    expected: pixels float32[B, 3, H, W] -> those tokens by the encoder's own code, [B, tokens, width].
    """

    model: PreTrainedModel
    layer: int
    strategy: Literal["default", "full"]
    tokens: int
    prefix: int
    expected: Callable[[torch.Tensor], torch.Tensor]


def stock_tower(encoder: VisionEncoder, layer: int | None = None) -> StockTower:
    """A copy of the encoder's ViT as a stock class: frozen, in eval mode, fp32, on the CPU.

    layer: a hidden state as LLaVA counts them. None is -2 for CLIP, as LLaVA reads it, and -1 for all others. -1 comes
    after the final norm for ViT and SigLIP; also for DINOv2 without registers, which becomes a ViT, its layer scale
    folded into the layer before it. Registers stay among an image's tokens: LLaVA drops the first token alone.
    Raises: UserError if no stock class can hold the ViT, or it has no such layer.
    """
    model = _stock_model(encoder, layer)
    config: Any = model.config
    kind, blocks = config.model_type, config.num_hidden_layers
    if layer is None:
        layer = -2 if kind == "clip_vision_model" else -1
    if layer == 0 or not -blocks - 1 <= layer <= blocks:  # stock LLaVA takes 0 for none
        raise UserError(f"--feature-layer {layer}: give 1 to {blocks} or, from the end, -1 to {-blocks - 1}")
    prefix = tokens_before_patches(config)
    dropped = 1 if prefix else 0
    after_norm = layer in (-1, blocks) and kind in AFTER_NORM

    def expected(pixels: torch.Tensor) -> torch.Tensor:
        return encoder.patch_tokens(pixels) if after_norm else encoder.layer_tokens(pixels, layer)[:, dropped:]

    tokens = encoder.config.patches + prefix - dropped
    return StockTower(model, layer, "default" if dropped else "full", tokens, prefix, expected)


def tokens_before_patches(config: PretrainedConfig) -> int:
    """How many tokens a ViT of this config has before its patches: CLS, and registers."""
    return (config.model_type != "siglip_vision_model") + getattr(config, "num_register_tokens", 0)


def describe_tower(config: LlavaConfig) -> str:
    """One line about a LLaVA's vision tower, for people: what is read, and how many tokens it makes."""
    vision: Any = config.vision_config
    layer, kind = config.vision_feature_layer, vision.model_type
    where = ""
    if layer in (-1, vision.num_hidden_layers):
        where = " (after the final norm)" if kind in AFTER_NORM else " (before the final norm)"
    registers = getattr(vision, "num_register_tokens", 0)
    with_them = f", {registers} of them registers" if registers else ""
    reads = f"hidden state {layer}{where}"
    return f"vision tower: {kind}, {reads}, {vision.image_size} pixels, {config.image_seq_length} tokens{with_them}"


def _stock_model(encoder: VisionEncoder, layer: int | None) -> PreTrainedModel:
    if not isinstance(encoder.vision, PreTrainedModel):
        from vlm.llava.timm_tower import stock_model

        return stock_model(encoder.vision, encoder.config.image_size)
    vision: Any = encoder.vision
    kind, config = vision.config.model_type, vision.config
    last = layer in (None, -1, config.num_hidden_layers)
    if kind == "dinov2" and last and not config.use_swiglu_ffn:
        return _vit_of_dinov2(vision)
    if kind in AFTER_NORM:
        return _with_norm_last(vision)
    return copy.deepcopy(vision).eval().requires_grad_(False)


def _with_norm_last(vision: PreTrainedModel) -> PreTrainedModel:
    """A copy of a ViT or SigLIP whose last hidden state is after the final norm; heads that nothing reads are gone."""
    config: Any = copy.deepcopy(vision.config)
    config.tie_last_hidden_states = True
    config.vision_use_head = False  # of SigLIP
    weights = {name: value for name, value in vision.state_dict().items() if not name.startswith(("head.", "pooler."))}
    if config.model_type == "vit":
        weights |= zero_pooler(config)
    return model_with(type(vision), config, weights)


def _vit_of_dinov2(vision: PreTrainedModel) -> PreTrainedModel:
    """DINOv2 as a ViTModel, whose last hidden state can come after the final norm; else the two are one architecture.

    DINOv2 multiplies what attention and MLP give by a scale a channel. s * (W x + b) = (s * W) x + s * b, so the scale
    goes into the rows of the linear layer before it: exact but for rounding.
    """
    old: Any = vision.config
    config = ViTConfig(
        image_size=old.image_size, patch_size=old.patch_size, hidden_size=old.hidden_size, num_channels=3,
        num_hidden_layers=old.num_hidden_layers, num_attention_heads=old.num_attention_heads, qkv_bias=old.qkv_bias,
        intermediate_size=int(old.hidden_size * old.mlp_ratio), hidden_act=old.hidden_act,
        layer_norm_eps=old.layer_norm_eps, **AFTER_LAST_NORM,
    )  # fmt: skip
    source, weights = vision.state_dict(), zero_pooler(config)
    scaled = {"attention.o_proj": "layer_scale1", "mlp.fc2": "layer_scale2"}
    for name, value in source.items():
        if not name.startswith("encoder.layer."):
            if name != "embeddings.mask_token":
                weights[name] = value
            continue
        index, part = name.removeprefix("encoder.layer.").split(".", 1)
        module, kind = part.rsplit(".", 1)
        if module.startswith("layer_scale"):
            continue
        if module in scaled:
            scale = source[f"encoder.layer.{index}.{scaled[module]}.lambda1"]
            value = value * (scale[:, None] if kind == "weight" else scale)
        module = {"norm1": "layernorm_before", "norm2": "layernorm_after"}.get(module, module)
        weights[f"layers.{index}.{module}.{kind}"] = value
    return model_with(ViTModel, config, weights)
