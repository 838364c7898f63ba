"""BatchNorm over the batch of all ranks, and its running statistics."""

import torch
from torch import nn

from vlm.distributed import active, sum_with_gradient


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose training statistics are those of the global batch, on any device and backend.

    torch's SyncBatchNorm computes the same but runs on GPUs only. Mean and variance take one reduction each: the
    variance is that of the centred values, which the one-pass form would lose to cancellation.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """input: float[B, C] -> float[B, C]; ranks may hold different B."""
        if not (self.training and active()):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input

        # One reduction for the mean: the column sums, and behind them the number of rows. Autograd goes through both
        # reductions: a rank's loss depends on every rank's rows, so the backward pass sums the gradients over ranks.
        total = sum_with_gradient(torch.cat([x.sum(0), x.new_full((1,), len(x))]))  # [C + 1]
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean
        variance = sum_with_gradient(centred.square().sum(0)) / count  # biased, as it normalises
        self._track(mean, variance * count / (count - 1))  # unbiased, as it is kept
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of this batch, as `nn.BatchNorm1d` does."""
        batches, running_mean, running_var = self.num_batches_tracked, self.running_mean, self.running_var
        if self.momentum is None or batches is None or running_mean is None or running_var is None:
            raise ValueError("GlobalBatchNorm1d needs running statistics and a momentum")
        batches += 1
        running_mean.lerp_(mean.to(running_mean.dtype), self.momentum)
        running_var.lerp_(variance.to(running_var.dtype), self.momentum)


class RunningStatistics:
    """The BatchNorm buffers of a module, put back after a step that did not count."""

    def __init__(self, module: nn.Module):
        layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d)]
        self.buffers = [buffer for layer in layers for buffer in layer.buffers()]
        self.kept = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def settle(self, counts: torch.Tensor) -> None:
        """counts: bool[] on the device; True keeps the buffers, False restores those of the last settling."""
        for buffer, kept in zip(self.buffers, self.kept):
            torch.where(counts, buffer, kept, out=kept)
            buffer.copy_(kept)
