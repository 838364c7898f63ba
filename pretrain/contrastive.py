"""The paper's two baselines: CLIP's InfoNCE and SigLIP's pairwise sigmoid, over the batch of all ranks.

Both compare every image with every caption by a logit, exp(scale) * cosine + bias. The two scalars are learned.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlm.distributed import all_sum, gather_with_gradient, rank, world_size

CHUNK = 1024  # captions whose logits SigLIP holds at a time
# Of an objective: the initial log-scale, the initial bias if it has one, and the highest log-scale.
INITIAL = {"clip": (math.log(1 / 0.07), None, math.log(100)), "siglip": (math.log(10), -10.0, math.inf)}


class LogitScale(nn.Module):
    """The inverse temperature and the bias of a pair's logit, learned from CLIP's or SigLIP's initial values.

    Parameters: `scale`, its logarithm, and `bias`, which CLIP has not; float32[1] each.
    """

    def __init__(self, objective: str):
        super().__init__()
        scale, bias, self.ceiling = INITIAL[objective]
        # One element and not a scalar: DeepSpeed views every parameter as bytes.
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (exp(scale), bias), float32[] each."""
        log_scale: torch.Tensor = _Ceiling.apply(self.scale, self.ceiling)
        scale = log_scale.exp()[0]
        return scale, torch.zeros_like(scale) if self.bias is None else self.bias[0]

    def values(self) -> dict[str, float]:
        """The scalars under the names that `EncoderConfig` saves them by."""
        named = {"logit_scale": self.scale.clamp(max=self.ceiling).item()}
        return named if self.bias is None else named | {"logit_bias": self.bias.item()}


class _Ceiling(torch.autograd.Function):
    """min(x, ceiling), whose gradient passes above the ceiling too if it leads back below.

    The plain clamp has no gradient there: a parameter that a step took over the ceiling would stay. Which way the
    gradient leads is asked of its mean over the ranks, which data parallelism takes anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, ceiling: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.ceiling = ceiling
        return x.clamp(max=ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        mean = all_sum(gradient) / world_size()
        leads_down = mean > 0  # descent subtracts it
        return torch.where((x <= ctx.ceiling) | leads_down, mean, 0), None


def info_nce(z_v: torch.Tensor, z_t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP: which of all captions is this image's, and the reverse; the mean of the two cross entropies, float[].

    z_v, z_t: unit rows [B, E] of this rank; B is equal on all ranks. The value is that of this rank's rows against
    every rank's: its average over ranks is the global loss.
    """
    own = torch.arange(len(z_v), device=z_v.device) + rank() * len(z_v)  # the column of each row's partner
    all_captions, all_images = gather_with_gradient(z_t), gather_with_gradient(z_v)  # [ranks * B, E] each
    to_text = functional.cross_entropy(scale * z_v @ all_captions.T, own)  # of logits [B, ranks * B]
    to_image = functional.cross_entropy(scale * z_t @ all_images.T, own)
    return 0.5 * (to_text + to_image)


def pairwise_sigmoid(z_v: torch.Tensor, z_t: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """SigLIP: is this caption this image's, for every pair; the sum over captions, averaged over images, float[].

        -1/B sum_ij log sigmoid(y_ij logit_ij),  y_ij = 1 for i = j, else -1
        = 1/B [ sum_ij softplus(logit_ij) - sum_i logit_ii ]                       as softplus(-x) = softplus(x) - x

    z_v, z_t: unit rows [B, E] of this rank, equal B; its images meet every rank's captions, and the average over ranks
    is the global loss. Logits exist for `CHUNK` captions at a time, in the backward pass as well.
    """

    def softplus_sum(captions: torch.Tensor) -> torch.Tensor:
        """Over the pairs of this rank's images with `captions`; its logits [B, CHUNK] are computed again backwards."""
        return functional.softplus(scale * z_v @ captions.T + bias).sum()

    everywhere = z_v.new_zeros(())
    for chunk in gather_with_gradient(z_t).split(CHUNK):
        everywhere = everywhere + checkpoint(softplus_sum, chunk, use_reentrant=False)
    matched = scale * (z_v * z_t).sum() + bias * len(z_v)
    return (everywhere - matched) / len(z_v)
