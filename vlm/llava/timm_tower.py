"""timm's ViT as the stock Hugging Face class that has the same parts: sizes, and weights one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from vlm.encoders import timm_vit
from vlm.encoders.stock import AFTER_LAST_NORM, model_with, zero_pooler

if TYPE_CHECKING:  # chat loads no timm
    from timm.models.vision_transformer import VisionTransformer

Weights = dict[str, torch.Tensor]
# Where each class keeps the parts of a block. Norms, then query, key and value, then the three other linear layers.
BLOCKS: dict[str, dict[str, str]] = {
    "ViTModel": {
        "block": "layers.{}.", "norm1": "layernorm_before", "norm2": "layernorm_after",
        "query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj",
        "proj": "attention.o_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    },
    "CLIPVisionModel": {
        "block": "encoder.layers.{}.", "norm1": "layer_norm1", "norm2": "layer_norm2",
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "proj": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    },
    "Dinov2WithRegistersModel": {
        "block": "encoder.layer.{}.", "norm1": "norm1", "norm2": "norm2",
        "query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj",
        "proj": "attention.o_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    },
}  # fmt: skip
BLOCKS["SiglipVisionModel"] = BLOCKS["CLIPVisionModel"]


def stock_model(vision: VisionTransformer, image_size: int) -> PreTrainedModel:
    """Copy a timm ViT into the stock class that has its parts: frozen, in eval mode, on the CPU, fp32.

    Layer scale is folded into the layer before it: exact but for rounding (2.5e-5 of DINOv2's features).
    Raises: UserError if there is no such class.
    """
    name = timm_vit.stock_class(vision)
    config, model_class, outer = _STOCK[name](vision, image_size)
    weights = outer
    for index, block in enumerate(vision.blocks):
        weights |= _block_weights(block, BLOCKS[name], index, config)
    return model_with(model_class, config, weights)


def _block_weights(block: Any, names: dict[str, str], index: int, config: PretrainedConfig) -> Weights:
    """The twelve weights and biases of one block, with its layer scale folded in or, if the class has one, beside."""
    weights, prefix = {}, names["block"].format(index)
    for kind in ("weight", "bias"):
        linears = {"norm1": block.norm1, "norm2": block.norm2, "fc1": block.mlp.fc1}
        for name, module in linears.items():
            weights[f"{prefix}{names[name]}.{kind}"] = getattr(module, kind)
        # timm keeps query, key and value in one layer of 3 x width outputs.
        for name, part in zip(("query", "key", "value"), getattr(block.attn.qkv, kind).chunk(3)):
            weights[f"{prefix}{names[name]}.{kind}"] = part
        for name, module, number in (("proj", block.attn.proj, 1), ("fc2", block.mlp.fc2, 2)):
            value, scale = getattr(module, kind), timm_vit.layer_scale(block, number)
            if isinstance(config, Dinov2WithRegistersConfig):
                one = torch.ones(config.hidden_size)
                weights[f"{prefix}layer_scale{number}.lambda1"] = one if scale is None else scale
            elif scale is not None:  # scale * (W x + b) = (scale * W) x + scale * b, row by row
                value = value * (scale[:, None] if kind == "weight" else scale)
            weights[f"{prefix}{names[name]}.{kind}"] = value
    return weights


def _sizes(vision: VisionTransformer, image_size: int) -> dict[str, Any]:
    """What every class calls by the same name."""
    block: Any = vision.blocks[0]
    return {
        "image_size": image_size, "patch_size": vision.patch_embed.patch_size[0], "hidden_size": vision.embed_dim,
        "num_hidden_layers": len(vision.blocks), "num_attention_heads": block.attn.num_heads,
        "hidden_act": timm_vit.hidden_act(block), "layer_norm_eps": block.norm1.eps,
    }  # fmt: skip


def _norm(name: str, module: Any) -> Weights:
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


def _prefix_and_positions(vision: VisionTransformer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """CLS [1, 1, width], registers [1, R, width] and positions [1, 1 + N, width], whose first is of CLS.

    A constant is added to each token, whether its own or of its place: registers get theirs at once.
    """
    assert vision.cls_token is not None and vision.pos_embed is not None  # `stock_class` refuses others
    registers = vision.cls_token[:, :0] if vision.reg_token is None else vision.reg_token
    if vision.no_embed_class:
        return vision.cls_token, registers, torch.cat([torch.zeros_like(vision.cls_token), vision.pos_embed], 1)
    count = registers.shape[1]
    cls, places, patches = vision.pos_embed.split([1, count, vision.pos_embed.shape[1] - 1 - count], dim=1)
    return vision.cls_token, registers + places, torch.cat([cls, patches], 1)


def _vit(vision: VisionTransformer, image_size: int) -> tuple[PretrainedConfig, type, Weights]:
    sizes = _sizes(vision, image_size)
    block: Any = vision.blocks[0]
    config = ViTConfig(**sizes, intermediate_size=block.mlp.fc1.out_features, qkv_bias=True, **AFTER_LAST_NORM)
    cls, _, positions = _prefix_and_positions(vision)
    return config, ViTModel, {
        "embeddings.cls_token": cls,
        "embeddings.position_embeddings": positions,
        "embeddings.patch_embeddings.projection.weight": vision.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": _bias(vision),
        **_norm("layernorm", vision.norm),
        **zero_pooler(config),
    }  # fmt: skip


def _clip(vision: VisionTransformer, image_size: int) -> tuple[PretrainedConfig, type, Weights]:
    block: Any = vision.blocks[0]
    config = CLIPVisionConfig(**_sizes(vision, image_size), intermediate_size=block.mlp.fc1.out_features)
    cls, _, positions = _prefix_and_positions(vision)
    if vision.patch_embed.proj.bias is not None:  # this class has none: each patch gets it with its position
        positions = torch.cat([positions[:, :1], positions[:, 1:] + vision.patch_embed.proj.bias], 1)
    return config, CLIPVisionModel, {
        "embeddings.class_embedding": cls[0, 0],
        "embeddings.position_embedding.weight": positions[0],
        "embeddings.patch_embedding.weight": vision.patch_embed.proj.weight,
        **_norm("pre_layrnorm", vision.norm_pre),
        **_norm("post_layernorm", vision.norm),
    }  # fmt: skip


def _siglip(vision: VisionTransformer, image_size: int) -> tuple[PretrainedConfig, type, Weights]:
    assert vision.pos_embed is not None
    block: Any = vision.blocks[0]
    sizes: dict[str, Any] = {**_sizes(vision, image_size), "intermediate_size": block.mlp.fc1.out_features}
    config = SiglipVisionConfig(**sizes, vision_use_head=False, **AFTER_LAST_NORM)
    return config, SiglipVisionModel, {
        "embeddings.position_embedding.weight": vision.pos_embed[0],
        "embeddings.patch_embedding.weight": vision.patch_embed.proj.weight,
        "embeddings.patch_embedding.bias": _bias(vision),
        **_norm("post_layernorm", vision.norm),
    }  # fmt: skip


def _registers(vision: VisionTransformer, image_size: int) -> tuple[PretrainedConfig, type, Weights]:
    sizes, block = _sizes(vision, image_size), vision.blocks[0]
    ratio = block.mlp.fc1.out_features / vision.embed_dim  # type: ignore
    config = Dinov2WithRegistersConfig(
        **sizes, mlp_ratio=int(ratio), qkv_bias=True, num_register_tokens=vision.num_reg_tokens
    )
    cls, registers, positions = _prefix_and_positions(vision)
    return config, Dinov2WithRegistersModel, {
        "embeddings.cls_token": cls,
        "embeddings.mask_token": torch.zeros(1, vision.embed_dim),
        "embeddings.register_tokens": registers,
        "embeddings.position_embeddings": positions,
        "embeddings.patch_embeddings.projection.weight": vision.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": _bias(vision),
        **_norm("layernorm", vision.norm),
    }  # fmt: skip


def _bias(vision: VisionTransformer) -> torch.Tensor:
    """Of the patch projection; zero if it has none."""
    bias = vision.patch_embed.proj.bias
    return torch.zeros(vision.embed_dim) if bias is None else bias


_STOCK: dict[str, Callable[[VisionTransformer, int], tuple[PretrainedConfig, type, Weights]]] = {
    timm_vit.VIT: _vit,
    timm_vit.CLIP: _clip,
    timm_vit.SIGLIP: _siglip,
    timm_vit.REGISTERS: _registers,
}
