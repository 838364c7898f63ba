"""What the device gives: a large product in bf16 and in float32, and a large copy."""

import torch

from gpu.check import Check


def measure(check: Check) -> None:
    size = 256 if check.smoke else 8192
    for dtype, side in ((torch.bfloat16, size), (torch.float32, size // 2)):
        a, b = (torch.randn(side, side, device=check.device, dtype=dtype) for _ in range(2))
        took = check.pipelined(lambda a=a, b=b: a @ b, 10)
        check.note("ceilings", f"product of {str(dtype)[6:]}", tflops=2 * side**3 / took / 1e12)
    x = torch.empty(1 << (20 if check.smoke else 31), dtype=torch.uint8, device=check.device)
    y = torch.empty_like(x)
    took = check.pipelined(lambda: y.copy_(x), 10)
    check.note("ceilings", "copy", tb_per_s=2 * len(x) / took / 1e12)  # read and written
