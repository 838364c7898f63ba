"""The frozen ViT inside a stock LLaVA, equal to timm's bit for bit, and the fixture that keeps it so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, ViTConfig, ViTModel

from vlm.errors import UserError

if TYPE_CHECKING:  # chat loads no timm
    from timm.models.vision_transformer import VisionTransformer


def vit_config(vision: VisionTransformer, image_size: int) -> ViTConfig:
    """The Hugging Face config of a plain timm ViT; `UserError` where it has parts that ViTModel lacks."""
    block = vision.blocks[0]
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
    if not found and len(list(vision.parameters())) != 6 + 12 * len(vision.blocks):
        found = ["more or fewer parameters"]
    if found:
        raise UserError(f"this encoder's ViT has {', '.join(found)}; a plain ViT with a class token is needed")
    return ViTConfig(
        hidden_size=vision.embed_dim,
        num_hidden_layers=len(vision.blocks),
        num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features,
        layer_norm_eps=vision.norm.eps,
        hidden_act="gelu",
        qkv_bias=True,
        image_size=image_size,
        patch_size=vision.patch_embed.patch_size[0],
        # Without it LLaVA reads hidden states from before the final norm; older transformers ignore it in silence.
        tie_last_hidden_states=True,
    )


def vit_model(vision: VisionTransformer, config: ViTConfig) -> ViTModel:
    """`vision`'s weights, copied, in a Hugging Face ViT: frozen, in eval mode. The unused pooler is zero."""
    weights = {
        "embeddings.cls_token": vision.cls_token,
        "embeddings.position_embeddings": vision.pos_embed,
        "embeddings.patch_embeddings.projection.weight": vision.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": vision.patch_embed.proj.bias,
        "layernorm.weight": vision.norm.weight,
        "layernorm.bias": vision.norm.bias,
        "pooler.dense.weight": torch.zeros(config.pooler_output_size, config.hidden_size),
        "pooler.dense.bias": torch.zeros(config.pooler_output_size),
    }
    for index, block in enumerate(vision.blocks):
        modules = {
            "layernorm_before": block.norm1,
            "attention.o_proj": block.attn.proj,
            "layernorm_after": block.norm2,
            "mlp.fc1": block.mlp.fc1,
            "mlp.fc2": block.mlp.fc2,
        }
        for kind in ("weight", "bias"):
            for name, module in modules.items():
                weights[f"layers.{index}.{name}.{kind}"] = getattr(module, kind)
            for name, part in zip("qkv", getattr(block.attn.qkv, kind).chunk(3)):
                weights[f"layers.{index}.attention.{name}_proj.{kind}"] = part
    # On "meta" nothing is initialised: no time is lost, and the global random state stays as it was.
    with torch.device("meta"):
        model = ViTModel(config)
    model.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, assign=True)
    return model.eval().requires_grad_(False)


def fixture_pixels(image_size: int) -> torch.Tensor:
    """A smooth test image, float32[1, 3, H, W] in the range of normalised pixels; no random numbers."""
    axis = torch.arange(image_size, dtype=torch.float64) / image_size
    waves = [torch.sin(2 * math.pi * (k * axis[:, None] + (4 - k) * axis[None, :] + k / 3)) for k in (1, 2, 3)]
    return (1.5 * torch.stack(waves)[None]).float()


@torch.no_grad()
def connector_input(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """What the connector is given for `pixels` on the model's own path: [B, N, vision width]."""
    seen = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.get_image_features(pixel_values=pixels.to(model.device))
    finally:
        hook.remove()
    return seen[0]


def check_parity(model: LlavaForConditionalGeneration, fixture: dict[str, torch.Tensor]) -> float:
    """Relative RMS error of the patch tokens against the encoder's own; `UserError` where they are not the same.

    fixture: pixels float32[1, 3, H, W] and tokens float32[1, N, D], computed by timm when the model was assembled.
    """
    expected = fixture["tokens"]
    tokens = connector_input(model, fixture["pixels"]).float().cpu()
    if tokens.shape != expected.shape:
        error = math.inf
    else:
        error = ((tokens - expected).square().mean() / expected.square().mean()).sqrt().item()
    allowed = 1e-3 if model.model.vision_tower.dtype == torch.float32 else 0.05
    if not error <= allowed:
        raise UserError(
            f"the vision tower gives other features than the encoder it was made from (relative error {error:.2g}, "
            f"allowed {allowed:g}): its weights were changed, or transformers is older than 5.18"
        )
    return error
