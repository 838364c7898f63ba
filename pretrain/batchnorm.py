"""BatchNorm over the batch of all ranks, and its running statistics."""

import torch
from torch import nn

from vlm.distributed import active, sum_with_gradient


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose training statistics are those of the global batch, on any device and backend.

    torch's SyncBatchNorm computes the same but runs on GPUs only. Mean and variance take one reduction each: the
    variance is that of the centred values, which the one-pass form would lose to cancellation.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: float[B, C] -> float[B, C]; ranks may hold different B."""
        if not (self.training and active()):
            return super().forward(x)
        x32 = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        total = sum_with_gradient(torch.cat([x32.sum(0), x32.new_full((1,), len(x32))]))
        count = total[-1].detach()
        centred = x32 - total[:-1] / count
        variance = sum_with_gradient(centred.square().sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_((total[:-1] / count).to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(x.dtype)


class RunningStatistics:
    """The BatchNorm buffers of a module, put back where a step did not count."""

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
