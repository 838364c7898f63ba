"""The picture that `vlm features` writes: images side by side, under each what its patches hold."""

import os
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlm.apps.attention import Attended
from vlm.apps.patch_tokens import Features
from vlm.run.pca import principal_colours

CELL = 2.3  # inches, the side of an image
VEIL = 0.72  # how opaque a map is over the grey picture


def draw(
    found: Features,
    patch: tuple[int, int],
    names: Sequence[str],
    question: str | None = None,
    answers: Sequence[Attended] = (),
) -> Figure:
    """A row each: images, principal colours, cosines to `patch` of the first image, and attention if there are answers.

    names: of the images, float32[B, 3, H, W] in `found`.
    """
    warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # a box stands for it
    columns, rows = len(found.shown), 4 if answers else 3
    size = (CELL * columns + 1.1, (CELL + 0.3) * rows + 0.4 * bool(answers))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    colours = principal_colours(found.tokens).unflatten(1, (found.side, found.side))  # [B, side, side, 3]
    cosines = found.cosines(*patch)
    lowest = cosines.min().item()
    map_of_cosines: Any = None
    for column, (image, name) in enumerate(zip(found.shown, names)):
        name = os.fsencode(name).decode(errors="replace")  # bytes that are no UTF-8 have no glyphs
        grid[0, column].imshow(image.permute(1, 2, 0))
        grid[0, column].set_title(textwrap.shorten(name, 30, placeholder="…"), fontsize=9, parse_math=False)
        _over(grid[1, column], image, colours[column], interpolation="nearest")
        map_of_cosines = _over(
            grid[2, column], image, cosines[column], interpolation="nearest", cmap="viridis", vmin=lowest, vmax=1
        )
    _mark(grid[2, 0], found, patch)
    figure.colorbar(map_of_cosines, ax=list(grid[2]), shrink=0.8, pad=0.01).ax.tick_params(labelsize=7)
    labels = ["as the model sees it", "PCA of patch tokens", f"cosine to patch {patch[0]},{patch[1]}"]
    if answers:
        _attention_row(figure, grid[3], found, answers)
        labels.append("attention of the answer")
        figure.suptitle("\n".join(textwrap.wrap(str(question), 40 * columns)), fontsize=10, parse_math=False)
    for axes, label in zip(grid[:, 0], labels):
        axes.set_ylabel(label, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def _attention_row(figure: Figure, row: Sequence[Axes], found: Features, answers: Sequence[Attended]) -> None:
    """The attention of each answer as multiples of what a patch would get if all were alike."""
    patches = found.side**2
    relative = [answer.weights / answer.weights.sum().clamp(min=1e-12) * patches for answer in answers]
    most = max(each.max().item() for each in relative)
    shown: Any = None
    for axes, image, weights, answer in zip(row, found.shown, relative, answers):
        shown = _over(axes, image, weights, interpolation="nearest", cmap="inferno", vmin=0, vmax=most)
        text = textwrap.shorten(answer.text, 60, placeholder="…")
        said = "\n".join(textwrap.wrap(f"“{text}”", 30))
        axes.set_xlabel(f"{said}\nattends {answer.on_image:.0%} to the image", fontsize=8, parse_math=False)
    bar = figure.colorbar(shown, ax=list(row), shrink=0.8, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("times the average patch", fontsize=7)


def _over(axes: Axes, image: torch.Tensor, values: torch.Tensor, **options: Any) -> Any:
    """Lay values of patches, [side, side] or RGB [side, side, 3], over a grey copy of the image float32[3, H, W]."""
    height, width = image.shape[1:]
    axes.imshow(image.mean(0), cmap="gray", vmin=0, vmax=1)
    return axes.imshow(values, alpha=VEIL, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **options)


def _mark(axes: Axes, found: Features, patch: tuple[int, int]) -> None:
    """Frame the chosen patch of the first image."""
    size = found.shown.shape[2] / found.side
    row, column = patch
    corner = (column * size - 0.5, row * size - 0.5)
    axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="#ff3b30", linewidth=2))
