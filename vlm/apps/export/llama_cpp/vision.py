"""The vision tower and connector of a VLM as llama.cpp's "mmproj" file.

Of llama.cpp's many projectors `internvl` computes what LLaVA does: a ViT whose class token is dropped, a LayerNorm,
Linear-GELU-Linear. The LayerNorm becomes the tower's last one. The class token comes last, not first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gguf import GGUFWriter

from vlm.apps.export.llama_cpp.tensors import Tensors
from vlm.errors import UserError
from vlm.llava.model import VLM
from vlm.llava.tower import describe_tower

PROJECTOR = "internvl"
GELU = ("gelu", "gelu_pytorch_tanh", "gelu_new")  # llama.cpp has the tanh form alone: up to 5e-4 from the exact one
IN_BLOCK = {
    "attention.q_proj": "attn_q", "attention.k_proj": "attn_k", "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_out", "layernorm_before": "ln1", "layernorm_after": "ln2",
    "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
}  # fmt: skip
OUTSIDE = {
    "embeddings.patch_embeddings.projection.weight": "v.patch_embd.weight",
    "embeddings.patch_embeddings.projection.bias": "v.patch_embd.bias",
    "layernorm.weight": "mm.model.mlp.0.weight", "layernorm.bias": "mm.model.mlp.0.bias",
}  # fmt: skip
CONNECTOR = {"linear_1": "mm.model.mlp.1", "linear_2": "mm.model.mlp.3"}


def check_vision(config: Any) -> None:
    """Raise a UserError if llama.cpp cannot compute this tower and connector."""
    vision = config.vision_config
    last = config.vision_feature_layer in (-1, vision.num_hidden_layers)
    after_norm = last and getattr(vision, "tie_last_hidden_states", False)
    if vision.model_type != "vit" or not after_norm or config.vision_feature_select_strategy != "default":
        raise UserError(
            f"--format gguf takes a plain ViT whose patches are read after the final norm (LeVLJEPA, ViT, DINOv2); "
            f"this VLM has another tower ({describe_tower(config)}): give --format hf"
        )
    acts = {"vision tower": vision.hidden_act, "connector": config.projector_hidden_act}
    for what, act in acts.items():
        if act not in GELU:
            raise UserError(f"the {what} activates with {act}; --format gguf takes gelu: give --format hf")
    if not config.multimodal_projector_bias:
        raise UserError("the connector has no biases; --format gguf needs them: give --format hf")


def add_vision_metadata(writer: GGUFWriter, vlm: VLM) -> None:
    config: Any = vlm.model.config
    vision, pixels = config.vision_config, vlm.processor.image_processor
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(PROJECTOR)
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_mean(list(pixels.image_mean))
    writer.add_vision_image_std(list(pixels.image_std))
    writer.add_vision_projector_scale_factor(1)  # an image token is a patch
    writer.add_vision_preproc_min_tiles(1)
    writer.add_vision_preproc_max_tiles(1)


def vision_tensors(vlm: VLM) -> Tensors:
    """The weights of tower and connector by llama.cpp's names."""
    weights: dict[str, torch.Tensor] = dict(vlm.vision_tower.state_dict())
    cls, positions = weights.pop("embeddings.cls_token"), weights.pop("embeddings.position_embeddings")
    tensors: dict[str, Callable[[], torch.Tensor]] = {
        "v.class_embd": lambda: cls.reshape(-1),
        "v.position_embd.weight": lambda: positions[0].roll(-1, 0),  # [1 + N, width], the class token's last
    }
    for name, value in weights.items():
        if not name.startswith("pooler."):  # nothing reads it
            tensors[_name(name)] = partial(torch.Tensor.detach, value)
    for name, value in vlm.connector.state_dict().items():
        module, kind = name.rsplit(".", 1)
        tensors[f"{CONNECTOR[module]}.{kind}"] = partial(torch.Tensor.detach, value)
    return tensors


def _name(name: str) -> str:
    """The file's name of one of the tower's tensors."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, index, part = name.split(".", 2)
    module, kind = part.rsplit(".", 1)
    return f"v.blk.{index}.{IN_BLOCK[module]}.{kind}"
