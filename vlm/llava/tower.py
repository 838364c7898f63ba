"""The frozen ViT inside a stock LLaVA: Hugging Face's ViTModel with the weights of timm's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from vlm.errors import UserError

if TYPE_CHECKING:  # chat loads no timm
    from timm.models.vision_transformer import VisionTransformer


def vit_config(vision: VisionTransformer, image_size: int) -> ViTConfig:
    """The Hugging Face config of a plain timm ViT; `UserError` if it has parts that ViTModel lacks."""
    block: Any = vision.blocks[0]
    norm: Any = vision.norm
    extra = {
        "register tokens": vision.num_prefix_tokens != 1 or vision.cls_token is None or vision.no_embed_class,
        "layer scale": not isinstance(block.ls1, nn.Identity),
        "query or key norm": not isinstance(block.attn.q_norm, nn.Identity),
        "a norm before the blocks": not isinstance(vision.norm_pre, nn.Identity),
        "no norm after the blocks": not isinstance(vision.norm, nn.LayerNorm),
        "no bias on query, key, value": block.attn.qkv.bias is None,
        "another activation than GELU": type(block.mlp.act) is not nn.GELU or block.mlp.act.approximate != "none",
        "patches that are not square": len(set(vision.patch_embed.patch_size)) != 1,
    }
    found = [name for name, present in extra.items() if present]
    # 6: CLS, positions, weight and bias of the patch projection and of the last norm. 12 a block: weight and bias of
    # two norms, of query-key-value, of the output projection and of two MLP layers.
    if not found and len(list(vision.parameters())) != 6 + 12 * len(vision.blocks):
        found = ["more or fewer parameters"]
    if found:
        raise UserError(f"this encoder's ViT has {', '.join(found)}; a plain ViT with a class token is needed")
    # Without it LLaVA reads hidden states from before the final norm; older transformers ignore it in silence.
    after_norm: dict[str, Any] = {"tie_last_hidden_states": True}
    return ViTConfig(
        image_size=image_size, patch_size=vision.patch_embed.patch_size[0],
        hidden_size=vision.embed_dim, num_hidden_layers=len(vision.blocks), num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features, hidden_act="gelu", qkv_bias=True, layer_norm_eps=norm.eps,
        **after_norm,
    )  # fmt: skip


def vit_model(vision: VisionTransformer, config: ViTConfig, device: torch.device) -> ViTModel:
    """Copy `vision`'s weights into a Hugging Face ViT on `device`: frozen, in eval mode. The unused pooler is zero."""
    assert vision.cls_token is not None and vision.pos_embed is not None  # `vit_config` refuses others
    pooler, norm = config.pooler_output_size or config.hidden_size, vision.norm
    weights: dict[str, Any] = {
        "embeddings.cls_token": vision.cls_token,
        "embeddings.position_embeddings": vision.pos_embed,
        "embeddings.patch_embeddings.projection.weight": vision.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": vision.patch_embed.proj.bias,
        "layernorm.weight": norm.weight,
        "layernorm.bias": norm.bias,
        "pooler.dense.weight": torch.zeros(pooler, config.hidden_size),
        "pooler.dense.bias": torch.zeros(pooler),
    }
    blocks: list[Any] = list(vision.blocks)
    for index, block in enumerate(blocks):
        norms = {"layernorm_before": block.norm1, "layernorm_after": block.norm2}
        linears = {"attention.o_proj": block.attn.proj, "mlp.fc1": block.mlp.fc1, "mlp.fc2": block.mlp.fc2}
        for kind in ("weight", "bias"):
            for name, module in (norms | linears).items():
                weights[f"layers.{index}.{name}.{kind}"] = getattr(module, kind)
            # timm keeps query, key and value in one layer of 3 x width outputs.
            for name, part in zip("qkv", getattr(block.attn.qkv, kind).chunk(3)):
                weights[f"layers.{index}.attention.{name}_proj.{kind}"] = part
    # On "meta" nothing is initialised: no time is lost, and the global random state stays as it was.
    with torch.device("meta"):
        model = ViTModel(config)
    model.load_state_dict({name: value.detach().to(device, copy=True) for name, value in weights.items()}, assign=True)
    return model.eval().requires_grad_(False)
