"""Pictures of a pretraining run: its curves, the spectrum of its embeddings, and what its patch tokens tell apart."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pretrain.data.source import open_captions
from pretrain.objective import effective_rank
from pretrain.probes.features import embed
from pretrain.probes.retrieval import tell_passed, usable_pairs
from vlm.encoders.levljepa import load_encoder
from vlm.errors import UserError
from vlm.run.colours import COLOURS
from vlm.run.curves import curves as draw_curves
from vlm.run.curves import style
from vlm.run.pca import principal_colours

EMBEDDED_PAIRS, SHOWN_IMAGES = 512, 8
# Title -> how the names of the records' values in it begin.
PANELS = {
    "loss": ("loss",),
    "parts of the loss": ("predict_", "sigreg_", "multi_view"),
    "effective rank": ("rank_", "probe_rank_"),
    "cosine of pairs": ("cosine_",),
    "recall among held-out captions": ("probe_image_to_text", "probe_text_to_image"),
    "zero-shot accuracy": ("probe_zero_shot",),
    "temperature of the logits": ("temperature",),
    "gradient norm before clipping": ("gradient_norm",),
    "learning rate": ("lr",),
    "samples a second": ("samples_per_s",),
}
EXACT = ("learning rate", "samples a second")
LOGARITHMIC = ("parts of the loss", "gradient norm before clipping")


def curves(records: Sequence[Mapping]) -> Figure:
    """A panel for each kind of value there is, as `vlm.run.curves` draws them."""
    return draw_curves(records, PANELS, EXACT, LOGARITHMIC)


def spectrum(embeddings: Mapping[str, torch.Tensor], ranks: Mapping[str, float]) -> Figure:
    """Variances of centred embeddings float[B, E] along their principal axes, as shares of the whole, largest first.

    Isotropic embeddings, which SIGReg asks for, would lie on the dashed line; collapsed ones fall off at once.
    """
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, z) in zip(COLOURS, embeddings.items()):
        variances = torch.linalg.svdvals(z.double() - z.double().mean(0)).square()
        shares = (variances / variances.sum()).clamp(min=1e-12).tolist()
        label = f"{name}: effective rank {ranks[name]:.1f} of {z.shape[1]}"
        axes.plot(range(1, len(shares) + 1), shares, color=colour, linewidth=1.8, label=label)
    axes.axhline(1 / z.shape[1], color="#555555", linewidth=0.9, linestyle="--", label="all directions alike")
    axes.set_yscale("log")
    axes.set_ylabel("share of the variance", fontsize=9)
    style(axes, "spectrum of the embeddings", "principal direction")
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return figure


def patches(images: torch.Tensor, tokens: torch.Tensor) -> Figure:
    """Images float[B, 3, H, W] in 0..1 above the principal colours of their patch tokens float[B, N, D]."""
    side = round(tokens.shape[1] ** 0.5)
    colours = principal_colours(tokens).unflatten(1, (side, side))
    figure = Figure(figsize=(1.5 * len(images), 3.4), dpi=110, layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for column, (image, colour) in enumerate(zip(images, colours)):
        grid[0, column].imshow(image.permute(1, 2, 0))
        grid[1, column].imshow(colour, interpolation="nearest")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    grid[0, 0].set_ylabel("image", fontsize=9)
    grid[1, 0].set_ylabel("patch tokens", fontsize=9)
    return figure


@torch.no_grad()
def of_encoder(
    folder: Path,
    source: str,
    image_column: str | None = None,
    caption_column: str | None = None,
    image_root: str | None = None,
) -> dict[str, Figure]:
    """Spectrum and patch tokens of a saved encoder on the captions of `source`, by caption of the figure.

    Raises: UserError if encoder or captions cannot be read, or fewer than two pairs are usable.
    """
    encoder = load_encoder(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    data = open_captions(source, image_column, caption_column, image_root=image_root)
    images, captions, passed = usable_pairs(data, EMBEDDED_PAIRS)
    tell_passed(passed, len(images))
    if len(images) < 2:
        raise UserError("the captions hold fewer than 2 usable pairs: give others with --data")
    e = embed(encoder, images, captions)
    embeddings = {"image": e.z_v, "caption": e.z_t}
    ranks = {name: float(effective_rank(z)) for name, z in embeddings.items()}
    pixels = torch.stack([encoder.transform(image) for image in islice(images, SHOWN_IMAGES)])
    tokens = encoder.patch_tokens(pixels.to(encoder.device)).float().cpu()
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.config.mean, encoder.config.std))
    shown = (pixels * std + mean).clamp(0, 1)  # float32[8, 3, H, W]
    coloured = "Patch tokens, coloured by their first three principal components over all images shown."
    return {f"Embeddings of {len(images)} pairs.": spectrum(embeddings, ranks), coloured: patches(shown, tokens)}
