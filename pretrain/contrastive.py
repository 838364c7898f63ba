"""The paper's two baselines: CLIP's InfoNCE and SigLIP's pairwise sigmoid, over the batch of all ranks.

Both compare every image with every caption by a logit, exp(scale) * cosine + bias, whose scalars are learned.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlm.distributed import all_sum, gather_with_gradient, rank, world_size

CHUNK = 1024  # captions whose logits SigLIP holds at a time


class Logits(nn.Module):
    """The learned scalars of a pair's logit, at CLIP's or SigLIP's initial values: `scale` (a logarithm) and `bias`."""

    def __init__(self, objective: str):
        super().__init__()
        scale, bias, self.ceiling = {
            "clip": (math.log(1 / 0.07), None, math.log(100)),
            "siglip": (math.log(10), -10.0, math.inf),
        }[objective]
        # One element and not a scalar: DeepSpeed views every parameter as bytes.
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (exp(scale), bias), float32[] each."""
        scale = _Ceiling.apply(self.scale, self.ceiling).exp()[0]
        return scale, torch.zeros_like(scale) if self.bias is None else self.bias[0]

    def values(self) -> dict[str, float]:
        """The scalars under the names that `EncoderConfig` saves them by."""
        named = {"logit_scale": self.scale.clamp(max=self.ceiling), "logit_bias": self.bias}
        return {name: value.item() for name, value in named.items() if value is not None}


class _Ceiling(torch.autograd.Function):
    """min(x, ceiling), whose gradient passes above the ceiling too where it leads back below.

    The plain clamp has no gradient there: a parameter that a step took over the ceiling would stay. Which way the
    gradient leads is asked of its mean over the ranks, which data parallelism takes anyway.
    """

    @staticmethod
    def forward(ctx, x, ceiling):
        ctx.save_for_backward(x)
        ctx.ceiling = ceiling
        return x.clamp(max=ceiling)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        mean = all_sum(gradient) / world_size()
        return torch.where((x <= ctx.ceiling) | (mean > 0), mean, 0), None


def info_nce(z_v: torch.Tensor, z_t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP: which of all captions is this image's, and the reverse; the mean of the two cross entropies, float[].

    z_v, z_t: unit rows [B, E] of this rank; B is equal on all ranks. The value is that of this rank's rows against
    every rank's: its average over ranks is the global loss.
    """
    own = torch.arange(len(z_v), device=z_v.device) + rank() * len(z_v)
    to_text = functional.cross_entropy(scale * z_v @ gather_with_gradient(z_t).T, own)
    to_image = functional.cross_entropy(scale * z_t @ gather_with_gradient(z_v).T, own)
    return 0.5 * (to_text + to_image)


def pairwise_sigmoid(z_v: torch.Tensor, z_t: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """SigLIP: is this caption this image's, for every pair; the sum over captions, averaged over images, float[].

        -1/B sum_ij log sigmoid(y_ij logit_ij),  y_ij = 1 for i = j, else -1
        = 1/B [ sum_ij softplus(logit_ij) - sum_i logit_ii ]                       as softplus(-x) = softplus(x) - x

    z_v, z_t: unit rows [B, E] of this rank, equal B; its images meet every rank's captions, and the average over ranks
    is the global loss. Logits exist for `CHUNK` captions at a time, in the backward pass as well.
    """

    def softplus_sum(captions: torch.Tensor) -> torch.Tensor:
        return functional.softplus(scale * z_v @ captions.T + bias).sum()

    chunks = gather_with_gradient(z_t).split(CHUNK)
    everywhere = sum(checkpoint(softplus_sum, chunk, use_reentrant=False) for chunk in chunks)
    matched = scale * (z_v * z_t).sum() + bias * len(z_v)
    return (everywhere - matched) / len(z_v)
