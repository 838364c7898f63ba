"""Embeddings -> (loss, metrics)."""

from dataclasses import dataclass

import torch

from pretrain.sigreg import random_directions, sigreg


@dataclass
class Embeddings:
    """z_v, z_t: the modalities' embeddings; to_text = h_v(z_v), to_image = h_t(z_t): their predictions. All [B, E]."""

    z_v: torch.Tensor
    z_t: torch.Tensor
    to_text: torch.Tensor
    to_image: torch.Tensor


def levljepa(
    e: Embeddings, *, lambda_image: float, lambda_text: float, directions: int, seed: int, step: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Cross-modal prediction with stop-gradient, and SIGReg on both modalities (LeVLJEPA, arXiv 2607.00784).

    L = (1 - lv - lt) / 2 * [mean (h_v(z_v) - sg z_t)^2 + mean (h_t(z_t) - sg z_v)^2] + lv SIGReg(z_v) + lt SIGReg(z_t)
    over the global batch: the prediction terms are means over this rank's rows, to be averaged over equal ranks;
    SIGReg reads every rank's rows. Returns the float32 loss and detached float32 scalars for the log.
    """
    with torch.autocast(e.z_v.device.type, enabled=False):
        z_v, z_t = e.z_v.float(), e.z_t.float()
        predict_text = (e.to_text.float() - z_t.detach()).square().mean()
        predict_image = (e.to_image.float() - z_v.detach()).square().mean()
        shape = dict(dim=z_v.shape[1], count=directions, seed=seed, step=step, device=z_v.device)
        sigreg_image = sigreg(z_v, random_directions(modality="image", **shape))
        sigreg_text = sigreg(z_t, random_directions(modality="text", **shape))
        loss = (
            (1 - lambda_image - lambda_text) * 0.5 * (predict_text + predict_image)
            + lambda_image * sigreg_image
            + lambda_text * sigreg_text
        )
    metrics = {
        "loss": loss,
        "predict_text": predict_text,
        "predict_image": predict_image,
        "sigreg_image": sigreg_image,
        "sigreg_text": sigreg_text,
    }
    return loss, {name: value.detach() for name, value in metrics.items()}


@torch.no_grad()
def effective_rank(z: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the normalised singular values of centred z [B, E] (Roy and Vetterli, 2007), float32.

    The singular values come from the smaller Gram matrix. NaN where z is not finite.
    """
    finite = z.isfinite().all()
    z = torch.where(finite, z.float(), 0)
    centred = z - z.mean(0)
    gram = centred.T @ centred if z.shape[0] >= z.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-12)
    return torch.where(finite, torch.special.entr(shares).sum().exp(), torch.nan)
