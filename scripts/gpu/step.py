"""A small pretraining step: the device in float32 and bf16 against a CPU in float64, whole and in micro-batches."""

import torch
from bench.step import captions

from gpu.check import Check, relative_error
from pretrain.model import Pretrainer
from pretrain.objective import levljepa
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder

CONFIG = EncoderConfig(
    image_size=64, patch_size=16, vision_width=128, vision_layers=3, vision_heads=2, text_width=128, text_layers=3,
    text_heads=2, vocab_size=1024, positions=77, embed_dim=64, projector_width=256, projector_depth=2,
)  # fmt: skip
# Of the gradient, relative. cuDNN's convolution is TF32 unless it is told otherwise.
TF32, FLOAT32, BF16 = 2e-3, 1e-4, 6e-2


def measure(check: Check) -> None:
    batch, cpu = 24 if check.smoke else 96, torch.device("cpu")
    exact = gradients(cpu, batch, double=True)
    for dtype, micro, allowed in (
        (torch.float32, 0, TF32),
        (torch.float32, batch // 3, TF32),
        (torch.bfloat16, 0, BF16),
        (torch.bfloat16, batch // 3, BF16),
    ):
        name = str(dtype)[6:] + (f", micro-batches of {micro}" if micro else "")
        loss, gradient = gradients(check.device, batch, micro, dtype)
        again = gradients(check.device, batch, micro, dtype)[1]
        wrong, same = relative_error(gradient, exact[1]), torch.equal(again, gradient)
        loss_error = abs(loss / exact[0] - 1)
        check.note("step", name, wrong <= allowed, loss_error=loss_error, gradient_error=wrong, same_twice=same)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    wrong = relative_error(gradients(check.device, batch)[1], exact[1])
    torch.backends.cudnn.allow_tf32 = before
    check.note("step", "float32, cuDNN without TF32", wrong <= FLOAT32, gradient_error=wrong)


def gradients(
    device: torch.device, batch: int, micro: int = 0, dtype: torch.dtype = torch.float32, double: bool = False
) -> tuple[float, torch.Tensor]:
    """The loss of the same batch and weights, and its gradient for all parameters in one vector."""
    exact = torch.float64 if double else torch.float32
    model = Pretrainer(new_encoder(CONFIG, 0).to(device, exact), micro, dtype).train()
    ids, lengths = captions(batch)
    pixels = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device, exact)
    embeddings = model(pixels, ids[:, : int(lengths.max())].to(device), lengths)
    loss, _ = levljepa(embeddings, lambda_image=0.02, lambda_text=0.02, directions=512, seed=0, step=3)
    loss.backward()
    return loss.item(), torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None])
