"""What a timm ViT is made of: which stock Hugging Face class has the same parts, and what its tokens are."""

from typing import Any

import torch
from timm.layers import Mlp, PatchEmbed, resample_abs_pos_embed
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import nn

from vlm.encoders.base import checked_layer
from vlm.errors import UserError

# The stock class that computes the same, by what the ViT has before and between its patches.
VIT, CLIP, SIGLIP, REGISTERS = "ViTModel", "CLIPVisionModel", "SiglipVisionModel", "Dinov2WithRegistersModel"


def stock_class(vision: VisionTransformer) -> str:
    """The name of the stock class that can hold this ViT exactly, judged on its modules: a meta-device model will do.

    Raises: UserError if there is none, with every part that is in the way.
    """
    if not isinstance(vision, VisionTransformer):
        raise UserError(f"this encoder is timm's {type(vision).__name__}; {_advice()}")
    block: Any = vision.blocks[0]
    classless, registers = vision.cls_token is None, vision.num_reg_tokens
    pre_norm = not isinstance(vision.norm_pre, nn.Identity)
    chosen = CLIP if pre_norm else SIGLIP if classless else REGISTERS if registers else VIT
    if not all(type(part) is Block for part in vision.blocks):
        raise UserError(f"this encoder's ViT has blocks of another kind ({type(block).__name__}); {_advice()}")
    activation, embed = hidden_act(block), vision.patch_embed
    missing = {
        "register tokens without a class token": classless and registers,
        "register tokens and a norm before the blocks": bool(registers and pre_norm),
        "a norm before the blocks without a class token": classless and pre_norm,
        "no position embeddings": vision.pos_embed is None,
        "norms on query and key": not isinstance(block.attn.q_norm, nn.Identity),
        "norms inside its attention": not isinstance(getattr(block.attn, "norm", nn.Identity()), nn.Identity),
        "norms inside its MLP": not isinstance(getattr(block.mlp, "norm", nn.Identity()), nn.Identity),
        f"an MLP of another kind ({type(block.mlp).__name__})": type(block.mlp) is not Mlp,
        "no norm after the blocks": not isinstance(vision.norm, nn.LayerNorm),
        "norms that are no LayerNorm": not isinstance(block.norm1, nn.LayerNorm),
        "no bias on query, key, value": block.attn.qkv is None or block.attn.qkv.bias is None,
        "no bias on its projections": block.attn.proj.bias is None,
        f"the activation {type(getattr(block.mlp, 'act', None)).__name__}": activation is None,
        f"patches of another kind ({type(embed).__name__})": type(embed) is not PatchEmbed,
        "a norm inside its patch projection": not isinstance(getattr(embed, "norm", nn.Identity()), nn.Identity),
        "registers and an MLP whose width is no multiple of its tokens'": bool(
            registers and block.mlp.fc1.out_features % vision.embed_dim
        ),
        "patches that are not square": len(set(embed.patch_size)) != 1,
        "images that are not square": len(set(embed.grid_size)) != 1,
    }
    found = [name for name, there in missing.items() if there]
    if not found and _other_parameters(vision):
        found = [f"parts that no stock class has ({', '.join(_other_parameters(vision)[:3])})"]
    if found:
        raise UserError(f"this encoder's ViT has {', '.join(found)}; {_advice()}")
    return chosen


def _advice() -> str:
    classes = ", ".join((VIT, CLIP, SIGLIP, REGISTERS))
    return f"none of the stock classes that LLaVA can hold ({classes}) computes the same: give another encoder"


def hidden_act(block: Any) -> str | None:
    """The name that Hugging Face has for the activation of a block's MLP; None if it is another one."""
    act = getattr(block.mlp, "act", None)
    if isinstance(act, nn.GELU):
        return "gelu" if act.approximate == "none" else "gelu_pytorch_tanh"
    if isinstance(act, QuickGELU):
        return "quick_gelu"
    return {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh"}.get(type(act).__name__)


def _other_parameters(vision: VisionTransformer) -> list[str]:
    """Parameters that a plain ViT lacks. Those behind the last norm, of a pooling head, do not count."""
    known = ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.", "norm_pre.", "norm.")
    in_block = ("norm1.", "norm2.", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2.", "ls1.gamma", "ls2.gamma")
    behind = ("head.", "attn_pool.", "fc_norm.")
    others = []
    for name, _ in vision.named_parameters():
        inside = name.startswith("blocks.") and name.split(".", 2)[2].startswith(in_block)
        if not inside and not name.startswith(known + behind):
            others.append(name)
    return others


def layer_scale(block: Any, number: int) -> torch.Tensor | None:
    """What a block multiplies its attention (1) or its MLP (2) by, float32[width]; None if it has no layer scale."""
    scale = getattr(block, f"ls{number}")
    return scale.gamma if isinstance(scale, LayerScale) else None


def timm_layer_tokens(vision: VisionTransformer, pixels: torch.Tensor, layer: int) -> torch.Tensor:
    """All tokens after a block, before the final norm, [B, prefix + N, width]; as `VisionEncoder.layer_tokens`."""
    blocks = checked_layer(layer, len(vision.blocks))
    tokens = vision.norm_pre(vision.patch_drop(vision._pos_embed(vision.patch_embed(pixels))))
    return vision.blocks[:blocks](tokens)


def resized_positions(vision: VisionTransformer, other: VisionTransformer) -> torch.Tensor:
    """The position embeddings of `vision` for the patches of `other`, by timm's own antialiased bicubic filter."""
    assert vision.pos_embed is not None
    old, new = vision.patch_embed.grid_size, other.patch_embed.grid_size
    prefix = 0 if vision.no_embed_class else vision.num_prefix_tokens
    return resample_abs_pos_embed(vision.pos_embed.detach(), list(new), list(old), num_prefix_tokens=prefix)
