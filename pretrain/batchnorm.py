"""BatchNorm over the batch of all ranks, and its running statistics."""

import torch
import torch.distributed as dist
from torch import nn

from vlm.distributed import active, all_sum, world_size


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose training statistics are those of the global batch, on any device and backend.

    torch's SyncBatchNorm computes the same, with as many messages, but runs on GPUs only.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """input: float[B, C] -> float[B, C]; ranks may hold different B."""
        if not (self.training and active()):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._track(mean, variance * count / (count - 1))  # unbiased, as it is kept
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of this batch, as `nn.BatchNorm1d` does."""
        batches, running_mean, running_var = self.num_batches_tracked, self.running_mean, self.running_var
        if self.momentum is None or batches is None or running_mean is None or running_var is None:
            raise ValueError("GlobalBatchNorm1d needs running statistics and a momentum")
        batches += 1
        running_mean.lerp_(mean.to(running_mean.dtype), self.momentum)
        running_var.lerp_(variance.to(running_var.dtype), self.momentum)


class _Normalise(torch.autograd.Function):
    """BatchNorm over the rows of all ranks: one message in the forward pass, one in the backward pass.

    Forward: every rank sends the mean of its own rows, their sum of squares about that mean, and their number. The
    sums of squares are moved to the common mean (Chan et al., 1979), so that nothing is lost to cancellation:

        M2 = sum_r [ M2_r + n_r (mean_r - mean)^2 ]         variance = M2 / n, biased, as it normalises

    Backward, with h = (x - mean) / sd and sums over the rows of all ranks:

        dx = weight / sd * (dy - sum(dy) / n - h * sum(dy h) / n)
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        rows, columns = len(x), x.shape[1]
        own_mean = x.sum(0) / max(rows, 1)  # [C]
        own_squares = (x - own_mean).square().sum(0)  # [C]
        message = torch.cat([own_mean, own_squares, x.new_full((1,), rows)])  # [2 C + 1]
        parts = [torch.empty_like(message) for _ in range(world_size())]
        dist.all_gather(parts, message)
        means, squares, counts = torch.stack(parts).split([columns, columns, 1], dim=1)  # [R, C], [R, C], [R, 1]

        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean).square()).sum(0) / count
        scale = torch.rsqrt(variance + eps)  # 1 / sd
        normalised = (x - mean) * scale
        ctx.save_for_backward(normalised, weight, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised * weight + bias, mean, variance, count

    @staticmethod
    def backward(ctx, *gradients):
        dy = gradients[0]  # the others are of what is not differentiable
        normalised, weight, scale, count = ctx.saved_tensors
        own_dy, own_dy_h = (
            dy.sum(0),
            (dy * normalised).sum(0),
        )  # [C] each: of bias and weight
        all_dy, all_dy_h = all_sum(torch.cat([own_dy, own_dy_h])).chunk(2)
        dx = weight * scale * (dy - all_dy / count - normalised * (all_dy_h / count))
        return dx, own_dy_h, own_dy, None


class RunningStatistics:
    """The BatchNorm buffers of a module, put back after a step that did not count."""

    def __init__(self, module: nn.Module):
        layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d)]
        self.buffers = [buffer for layer in layers for buffer in layer.buffers()]
        self.kept = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def keep_or_restore(self, counts: torch.Tensor) -> None:
        """counts: bool[] on the device; True keeps the buffers, False restores those that were kept last."""
        for buffer, kept in zip(self.buffers, self.kept):
            torch.where(counts, buffer, kept, out=kept)
            buffer.copy_(kept)
