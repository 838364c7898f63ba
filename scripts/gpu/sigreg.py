"""SIGReg's value and gradient on the device against its definition in float64, under bf16 autocast and TF32."""

import torch
from bench.sigreg import plain_sigreg

from gpu.check import Check, relative_error
from pretrain.sigreg import random_directions, sigreg

VALUE, GRADIENT = 3e-6, 2e-6  # errors allowed, relative
ELEMENTS = 1 << 22  # of rows times directions: the definition stores 17 times that


def measure(check: Check) -> None:
    sizes = ((64, 16, 128),) if check.smoke else ((256, 256, 4096), (512, 256, 4096), (4096, 256, 4096))
    for batch, dim, count in sizes:
        z = (torch.randn(batch, dim, generator=torch.Generator().manual_seed(batch)) * 1.1 + 0.05).to(check.device)
        along = random_directions(dim, count, 0, 0, "image", check.device)
        value, gradient = _exact(z, along, check.device)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        ours = z.clone().requires_grad_()
        with torch.autocast(check.device.type, dtype=torch.bfloat16):
            found = sigreg(ours, along)
        found.backward()
        torch.set_float32_matmul_precision(before)
        again = z.clone().requires_grad_()
        sigreg(again, along).backward()
        assert ours.grad is not None and again.grad is not None
        wrong = abs(found.item() / value - 1), relative_error(ours.grad, gradient)
        same, passed = torch.equal(again.grad, ours.grad), wrong[0] <= VALUE and wrong[1] <= GRADIENT
        check.note("sigreg", f"{batch}x{dim}", passed, value_error=wrong[0], gradient_error=wrong[1], same_twice=same)
        check.free()


def _exact(z: torch.Tensor, along: torch.Tensor, device: torch.device) -> tuple[float, torch.Tensor]:
    """The definition's value and gradient in float64, some directions at a time."""
    z, value = z.double().requires_grad_(), 0.0
    for part in along.double().split(max(1, ELEMENTS // len(z)), dim=1):
        with torch.device(device):
            share = plain_sigreg(z, part) * (part.shape[1] / along.shape[1])
        share.backward()
        value += share.item()
    assert z.grad is not None
    return value, z.grad
