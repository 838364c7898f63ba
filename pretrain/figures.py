"""Pictures of a pretraining run: its curves, the spectrum of its embeddings, and what its patch tokens tell apart."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from pretrain.data.source import open_captions
from pretrain.objective import effective_rank
from pretrain.probes.features import embed
from pretrain.probes.retrieval import tell_passed, usable_pairs
from vlm.apps.pca import principal_colours
from vlm.encoders.levljepa import load_encoder
from vlm.errors import UserError

EMBEDDED_PAIRS, SHOWN_IMAGES = 512, 8
COLOURS = ("#1f6f8b", "#e0a458", "#7a5c8e", "#5b8e5b", "#b5524c", "#8d99ae")
# Title -> how the names of the records' values in it begin.
PANELS = {
    "loss": ("loss",),
    "parts of the loss": ("predict_", "sigreg_", "multi_view"),
    "effective rank": ("rank_", "probe_rank_"),
    "cosine of pairs": ("cosine_",),
    "recall among held-out captions": ("probe_image_to_text", "probe_text_to_image"),
    "temperature of the logits": ("temperature",),
    "gradient norm before clipping": ("gradient_norm",),
    "learning rate": ("lr",),
    "samples a second": ("samples_per_s",),
}
EXACT = ("learning rate", "samples a second")
LOGARITHMIC = ("parts of the loss", "gradient norm before clipping")


def curves(records: Sequence[Mapping]) -> Figure:
    """A panel for each kind of value there is; what is noisy is faint under its running mean over a fiftieth of it."""
    names = sorted({name for record in records for name, value in record.items() if isinstance(value, (int, float))})
    panels: dict[str, list[str]] = {}
    for title, starts in PANELS.items():
        if found := [name for name in names if name.startswith(starts)]:
            panels[title] = found
    rows = -(-len(panels) // 3)  # of three panels, rounded up
    figure = Figure(figsize=(12, 3 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).flatten()
    for axes, (title, found) in zip(grid, panels.items()):
        for colour, name in zip(COLOURS, found):
            # None in a step that was skipped.
            points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
            window = 1 if title in EXACT else max(1, len(points) // 50)
            _line(axes, points, window, colour, name.replace("_", " "))
        _style(axes, title, "step")
        if title in LOGARITHMIC:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # the ticks 1, 2, 5, 10, ... have numbers
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        if len(found) > 1:
            axes.legend(fontsize=8, frameon=False)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def _line(axes: Axes, points: list[tuple[int, float]], window: int, colour: str, label: str) -> None:
    """Points (step, value), faint, under the mean of the last `window` of them."""
    steps, values = zip(*points)
    sums = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)  # sums[i]: of the first i values
    last = torch.arange(1, len(values) + 1)
    first = (last - window).clamp(min=0)
    means = (sums[last] - sums[first]) / (last - first)
    if window > 1:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
    axes.plot(steps, means.tolist(), color=colour, linewidth=1.5, label=label)


def _style(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(below, fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


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
    _style(axes, "spectrum of the embeddings", "principal direction")
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
def of_encoder(folder: Path, source: str, image_column: str | None, caption_column: str | None) -> dict[str, Figure]:
    """Spectrum and patch tokens of a saved encoder on the captions of `source`, by caption of the figure."""
    encoder = load_encoder(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    images, captions, passed = usable_pairs(open_captions(source, image_column, caption_column), EMBEDDED_PAIRS)
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
