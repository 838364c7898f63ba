"""Rows of results as a bar chart, and the frame of every chart of scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bridge.evaluation.benchmarks import TITLES
from vlm.run.colours import COLOURS as PALETTE

if TYPE_CHECKING:  # takes a second to import
    from matplotlib.figure import Figure

F1 = "pope_f1"  # POPE's mean F1 over its categories, which papers quote; not in the mean of the benchmarks
COLUMNS = {**TITLES, F1: "POPE F1", "mean": "mean"}
LOW = 6  # percent
LEGEND = {"random": "random: the same ViT, untrained", "blind": "blind: a ViT that cannot see"}
_TEAL, _SAND, _PLUM, _GREEN, _BRICK, _GREY = PALETTE
COLOURS = (_TEAL, _SAND, _GREY, _PLUM, _GREEN, _BRICK)  # in the order in which rows take them


def draw(table: dict) -> "Figure":
    """Bars by benchmark with their 95 % intervals, a colour a row; rows that see the caption as text are hatched."""
    from matplotlib.figure import Figure  # takes a second to import

    columns = [key for key in COLUMNS if any(row[key] is not None for row in table["rows"].values())]
    rows = list(table["rows"].items())
    width = 0.8 / len(rows)  # of a bar; the bars of a benchmark stand side by side, their middle at its number
    figure = Figure(figsize=(max(6.5, 1.1 + 0.55 * len(columns) * (len(rows) + 1)), 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colours = iter(COLOURS * len(rows))
    hatched = {"facecolor": "white", "edgecolor": "#555555", "hatch": "///"}
    for index, (name, row) in enumerate(rows):
        ceiling = row["sees"] == "captions"
        style: dict[str, Any] = hatched if ceiling else {"color": next(colours)}
        shift = (index - (len(rows) - 1) / 2) * width
        known = [(number, row[key]) for number, key in enumerate(columns) if row[key] is not None]
        places, values = [number + shift for number, _ in known], [value for _, value in known]
        label = f"{name}: the true caption as text" if ceiling else name
        if row["sees"] == "images":
            label = LEGEND.get(name, name)
        bars = axes.bar(places, values, width * 0.92, label=label, linewidth=0.8, **style)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        readable: dict[str, Any] = {"bbox": box} if ceiling else {"color": "white"}
        texts = axes.bar_label(bars, fmt="%.1f", fontsize=8, label_type="center", **readable)
        for text in (text for text, value in zip(texts, values) if value < LOW):
            text.set(color="black", va="bottom")  # over a bar that is too low to hold it
        for key, place in zip([columns[number] for number, _ in known], places):
            if key in row["intervals"]:
                axes.plot([place, place], row["intervals"][key], color="black", linewidth=1)
    frame(figure, columns, "Scores, with 95 % intervals over images")
    return figure


def frame(figure: "Figure", columns: Sequence[str], title: str) -> None:
    """Axes, chance, title and legend of a chart whose bars stand at the number of their column, a key of `COLUMNS`."""
    axes = figure.axes[0]
    if "pope" in columns:  # half of POPE's questions are answered by yes
        middle = columns.index("pope")
        axes.plot([middle - 0.45, middle + 0.45], [50, 50], "--", color="#b5524c", linewidth=1, label="chance")
    axes.set_xticks(range(len(columns)), [COLUMNS[key] for key in columns], fontsize=11)
    axes.set(ylabel="score, %", ylim=(0, 105), yticks=range(0, 101, 20), axisbelow=True)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=12, loc="left")
    handles = sorted(axes.get_legend_handles_labels()[0], key=lambda handle: handle.get_label() == "chance")  # it last
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=9, frameon=False)
