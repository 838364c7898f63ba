"""Curves of a run's metrics, a panel for each kind of value."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from vlm.run.colours import COLOURS

BUCKETS = 500  # of a long run's points


def curves(
    records: Sequence[Mapping],
    panels: Mapping[str, tuple[str, ...]],
    exact: Sequence[str] = (),
    logarithmic: Sequence[str] = (),
) -> Figure:
    """Lines of metrics.jsonl as curves; what is noisy is faint under its running mean over a fiftieth of it.

    panels: title -> how the names of the values in it begin; a panel without a value is left out. exact: titles of
    panels without a running mean. logarithmic: those with such an axis.
    """
    names = sorted({name for record in records for name, value in record.items() if isinstance(value, (int, float))})
    shown: dict[str, list[str]] = {}
    for title, starts in panels.items():
        if found := [name for name in names if name.startswith(starts)]:
            shown[title] = found
    rows = -(-len(shown) // 3)  # of three panels, rounded up
    figure = Figure(figsize=(12, 3 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).flatten()
    for axes, (title, found) in zip(grid, shown.items()):
        for colour, name in zip(COLOURS, found):
            values = [(record["step"], record.get(name)) for record in records]
            # None or NaN in a step that was skipped.
            points = [(step, value) for step, value in values if value is not None and math.isfinite(value)]
            if not points:
                continue
            window = 1 if title in exact else max(1, len(points) // 50)
            _line(axes, points, window, colour, name.replace("_", " "))
        style(axes, title, "step")
        if title in logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # the ticks 1, 2, 5, 10, ... have numbers
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        if len(found) > 1:
            axes.legend(fontsize=8, frameon=False)
    for axes in grid[len(shown) :]:
        axes.remove()
    return figure


def _line(axes: Axes, points: list[tuple[int, float]], window: int, colour: str, label: str) -> None:
    """Points (step, value), faint, under the mean of the last `window` of them."""
    steps, values = zip(*points)
    sums = np.cumsum([0.0, *values])  # sums[i]: of the first i values
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    means = (sums[last] - sums[first]) / (last - first)
    if window > 1:
        axes.plot(*_thinned(steps, values), color=colour, alpha=0.25, linewidth=0.7)
    axes.plot(*_thinned(steps, means.tolist()), color=colour, linewidth=1.5, label=label)


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Of more points than a panel can show, the lowest and the highest of each of `BUCKETS` neighbourhoods."""
    places = np.arange(len(values))
    if len(values) > 4 * BUCKETS:
        parts = np.array_split(np.asarray(values, dtype=float), BUCKETS)
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        lowest = starts + [part.argmin() for part in parts]
        highest = starts + [part.argmax() for part in parts]
        places = np.unique([0, *lowest, *highest, len(values) - 1])  # the ends stay as well
    return np.asarray(steps)[places], np.asarray(values)[places]


def style(axes: Axes, title: str, below: str) -> None:
    """What all panels have in common. below: the name of the horizontal axis."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(below, fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
