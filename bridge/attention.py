"""Attention for CPUs: the query heads of a group read their keys and values where they lie.

transformers' plain attention copies keys and values for every query head first, and its backward pass adds the copies'
gradients up again: a sixth of a training step of SmolLM2, whose three key heads serve nine query heads.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED = "grouped"
PLAIN = ("llama", "mistral", "qwen2", "qwen3", "smollm3")  # families whose attention adds nothing to this formula


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(q k^T * scaling + mask) v of H query heads in K groups, without dropout.

    query: [B, H, T, d]. key, value: [B, K, S, d]. attention_mask: what is added, broadcast to [B, 1, T, S]. The result:
    [B, T, H, d], as transformers' attention functions give it, and no weights.
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    shared = heads // groups  # query heads that read the same keys: they are neighbours
    folded = (query * scaling).reshape(batch, groups, shared * length, width)
    scores = (folded @ key.transpose(2, 3)).view(batch, groups, shared, length, -1)  # [B, K, shared, T, S]
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]  # [B, 1, 1, T, S]
    weights = scores.softmax(dim=-1)  # the kernel computes in float32, and rounds once
    mixed = weights.flatten(2, 3) @ value  # [B, K, shared * T, d]
    return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
