"""Embeddings -> (loss, metrics): the four objectives, which share towers, heads, data and optimizer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch.nn.functional import normalize

from pretrain.config import PretrainConfig
from pretrain.contrastive import info_nce, pairwise_sigmoid
from pretrain.directions import DirectionsAhead
from pretrain.sigreg import random_directions, sigreg


@dataclass
class Embeddings:
    """z_v, z_t: the modalities' embeddings; to_text = h_v(z_v), to_image = h_t(z_t): their predictions. All [B, E].

    views: the crops' embeddings [V, B, E] if an image has several; z_v is then the centre, the global ones' mean.
    scale, bias: float[], of CLIP's and SigLIP's logits, scale * cosine + bias. The other objectives have none.
    """

    z_v: torch.Tensor
    z_t: torch.Tensor
    to_text: torch.Tensor
    to_image: torch.Tensor
    views: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def full(self) -> "Embeddings":
        """The same in float32 (float64 stays): in half precision SIGReg and cross entropy lose digits that matter."""
        there = {name: part for name, part in vars(self).items() if part is not None}
        return Embeddings(**{name: z.to(torch.promote_types(z.dtype, torch.float32)) for name, z in there.items()})


Terms = dict[str, torch.Tensor]  # float32[] each, for the log
Objective = Callable[..., tuple[torch.Tensor, Terms]]
Draw = Callable[..., torch.Tensor]  # `random_directions`, or what gives the same numbers earlier


def objective(config: PretrainConfig) -> Objective:
    """What --objective names, as a function: (embeddings, step=s) -> (loss, detached scalars for the log).

    SIGReg's directions of a step are drawn on a thread while the step before is computed.
    """
    settings: dict[str, Any] = {
        name: getattr(config, name) for name in ("lambda_image", "lambda_text", "directions", "seed")
    }
    settings["draw"] = DirectionsAhead()
    return {
        "levljepa": partial(levljepa, **settings),
        "levljepa-plus": partial(levljepa_plus, lambda_multi=config.lambda_multi, **settings),
        "clip": clip,
        "siglip": siglip,
    }[config.objective]


def _in_float32(function: Objective) -> Objective:
    """The objective in full precision whatever autocast says, and its terms as metrics, the loss among them."""

    @wraps(function)
    def compute(e: Embeddings, **settings: Any) -> tuple[torch.Tensor, Terms]:
        with torch.autocast(e.z_v.device.type, enabled=False):
            loss, terms = function(e.full(), **settings)
        return loss, {name: value.detach() for name, value in {"loss": loss, **terms}.items()}

    return compute


@_in_float32
def levljepa(
    e: Embeddings,
    *,
    lambda_image: float,
    lambda_text: float,
    directions: int,
    seed: int,
    step: int,
    draw: Draw = random_directions,
) -> tuple[torch.Tensor, Terms]:
    """Cross-modal prediction with stop-gradient, and SIGReg on both modalities (LeVLJEPA, arXiv 2607.00784).

    L = (1 - lv - lt) / 2 * [mean (h_v(z_v) - sg z_t)^2 + mean (h_t(z_t) - sg z_v)^2] + lv SIGReg(z_v) + lt SIGReg(z_t)
    over the global batch: the prediction terms are means over this rank's rows, to be averaged over equal ranks;
    SIGReg reads every rank's rows.
    """
    terms = _prediction(e)
    terms["sigreg_image"] = _sigreg(e.z_v, "image", directions, seed, step, draw)
    terms["sigreg_text"] = _sigreg(e.z_t, "text", directions, seed, step, draw)
    return _weighted(terms, sigreg_image=lambda_image, sigreg_text=lambda_text), terms


@_in_float32
def levljepa_plus(
    e: Embeddings,
    *,
    lambda_image: float,
    lambda_text: float,
    lambda_multi: float,
    directions: int,
    seed: int,
    step: int,
    draw: Draw = random_directions,
) -> tuple[torch.Tensor, Terms]:
    """LeVLJEPA+: the centre of an image's crops predicts and is predicted, and the crops are pulled to it.

    L = (1 - lv - lt - lm) / 2 * [prediction from and of the centre] + lv mean_v SIGReg(view v) + lt SIGReg(z_t)
      + lm mean (view - centre)^2
    Each view has SIGReg's directions of its own. No stop-gradient in the last term.
    """
    views = _needed(e.views, "views")  # [V, B, E]
    by_view = [_sigreg(view, index, directions, seed, step, draw) for index, view in enumerate(views)]
    terms = _prediction(e)
    terms["sigreg_image"] = torch.stack(by_view).mean()
    terms["sigreg_text"] = _sigreg(e.z_t, "text", directions, seed, step, draw)
    terms["multi_view"] = (views - e.z_v).square().mean()
    return _weighted(terms, sigreg_image=lambda_image, sigreg_text=lambda_text, multi_view=lambda_multi), terms


def _prediction(e: Embeddings) -> Terms:
    """How well each modality predicts the other's embedding, which gets no gradient from it."""
    to_text, to_image = e.to_text - e.z_t.detach(), e.to_image - e.z_v.detach()
    return {"predict_text": to_text.square().mean(), "predict_image": to_image.square().mean()}


def _weighted(terms: Terms, **weights: float) -> torch.Tensor:
    """The weighted sum of the terms; the two predictions share what the `weights` of the others leave of 1."""
    rest = 1.0
    for weight in weights.values():
        rest -= weight
    loss = rest * 0.5 * (terms["predict_text"] + terms["predict_image"])
    for name, weight in weights.items():
        loss = loss + weight * terms[name]
    return loss


def _sigreg(z: torch.Tensor, key: str | int, directions: int, seed: int, step: int, draw: Draw) -> torch.Tensor:
    """SIGReg of z [B, E] along the directions of this step and modality (or view), `key`."""
    return sigreg(z, draw(z.shape[1], directions, seed, step, key, device=z.device))


@_in_float32
def clip(e: Embeddings, **_: Any) -> tuple[torch.Tensor, Terms]:
    """InfoNCE over the global batch with a learned temperature (CLIP, arXiv 2103.00020)."""
    scale = _needed(e.scale, "scale")
    return info_nce(normalize(e.z_v), normalize(e.z_t), scale), {"temperature": 1 / scale}


@_in_float32
def siglip(e: Embeddings, **_: Any) -> tuple[torch.Tensor, Terms]:
    """Pairwise sigmoid over the global batch with a learned temperature and bias (SigLIP, arXiv 2303.15343)."""
    scale, bias = _needed(e.scale, "scale"), _needed(e.bias, "bias")
    loss = pairwise_sigmoid(normalize(e.z_v), normalize(e.z_t), scale, bias)
    return loss, {"temperature": 1 / scale, "bias": bias}


def _needed(part: torch.Tensor | None, name: str) -> torch.Tensor:
    """A part of the embeddings that not every objective has."""
    if part is None:
        raise ValueError(f"this objective reads the {name} of its embeddings, and the model gave none")
    return part


@torch.no_grad()
def effective_rank(z: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the normalised singular values of centred z [B, E] (Roy and Vetterli, 2007), float32.

    The singular values come from the smaller Gram matrix. NaN if z is not finite.
    """
    finite = z.isfinite().all()
    z = torch.where(finite, z.float(), 0)  # eigvalsh would raise, and looking at `finite` would wait for the device
    centred = z - z.mean(0)
    gram = centred.T @ centred if z.shape[0] >= z.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-12)
    return torch.where(finite, torch.special.entr(shares).sum().exp(), torch.nan)
