"""The table as Markdown and as a picture."""

from pathlib import Path

from bridge.evaluation.benchmarks import TITLES
from study.paper.table import NAMES
from vlm.files import write_figure, write_file, write_json
from vlm.markdown import ruled

COLOURS = {"levljepa": "#1f6f8b", "clip": "#e0a458", "siglip": "#8d99ae", "levljepa-plus": "#7a5c8e"}


def write_table(table: dict, out: Path) -> str:
    """Write paper_table.json, .md and .png to `out`; returns what to print."""
    text = as_markdown(table)
    write_json(out / "paper_table.json", table)
    write_file(out / "paper_table.md", text)
    draw(table, out / "paper_table.png")
    left_out = "".join(f"Left out: {line}\n" for line in table["left_out"])
    return f"{text}{left_out}\nwritten: {out / 'paper_table.md'}, .json and .png"


def as_markdown(table: dict) -> str:
    """A line each LLM and benchmark; a column each objective, and beside it the paper's if asked for."""
    reported = any("reported" in cell for cell in table["cells"])
    names = [NAMES.get(objective, objective) for objective in table["objectives"]]
    head = ["LLM", "benchmark"]
    for name in names:
        head += [name, "paper"] if reported else [name]
    lines = [head]
    cells = {(cell["llm"], cell["benchmark"], cell["objective"]): cell for cell in table["cells"]}
    for llm in table["llms"]:
        for benchmark, title in TITLES.items():
            line = [llm, title]
            for objective in table["objectives"]:
                cell = cells[llm, benchmark, objective]
                line.append(_gain(cell))
                if reported:
                    line.append("-" if cell["reported"] is None else f"{cell['reported']:+.1f}")
            lines.append(line)
    return "\n".join([*ruled(lines, words=2), "", *_remarks(table), ""])


def _gain(cell: dict) -> str:
    if cell["gain"] is None:
        return "-"
    star = "*" if _is_partial(cell) else ""
    if "deviation" in cell:
        return f"{cell['gain']:+.2f} ± {cell['deviation']:.2f} ({len(cell['pairs'])}){star}"
    return f"{cell['gain']:+.2f} [{cell['low']:+.1f}, {cell['high']:+.1f}]{star}"


def _is_partial(cell: dict) -> bool:
    """Whether a run of the cell left questions unanswered."""
    return any(pair["partial"] for pair in cell["pairs"])


def _remarks(table: dict) -> list[str]:
    cells = [cell for cell in table["cells"] if cell["gain"] is not None]
    lines = ["Points gained over the same bridge on a random ViT: GQA accuracy, VQAv2 overall, POPE's mean accuracy."]
    if any("deviation" in cell for cell in cells):
        lines.append("± is the standard deviation over seeds, their number in brackets.")
    if any("low" in cell for cell in cells):
        lines.append("One seed: [95 % interval of a paired bootstrap over images].")
    if any(_is_partial(cell) for cell in cells):
        lines.append("* partial: some questions were not answered and count as wrong.")
    lines += [f"No runs: {', '.join(table['no_runs'])}."] if table["no_runs"] else []
    lines += [f"Not paired: {text}." for text in table["unpaired"]]
    return [*lines, *(f"Note: {text}." for text in table["notes"])]


def draw(table: dict, file: Path) -> None:
    """A panel for each LLM: bars by benchmark, a colour for each objective; the paper's gains as diamonds of that
    colour. The legend names every objective of the table, also one without runs."""
    from matplotlib.figure import Figure  # takes a second to import
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    llms, objectives = table["llms"], table["objectives"]
    figure = Figure(figsize=(max(6.0, 1.0 + 4.4 * len(llms)), 4.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(llms), sharey=True, squeeze=False)[0]
    width = 0.8 / len(objectives)
    for axes, llm in zip(panels, llms):
        for index, objective in enumerate(objectives):
            cells = [c for c in table["cells"] if (c["llm"], c["objective"]) == (llm, objective)]
            places = [number + (index - (len(objectives) - 1) / 2) * width for number in range(len(cells))]
            _bars(axes, places, cells, width, _colour(objective))
        axes.set_title(llm, fontsize=12, loc="left")
        axes.set_xticks(range(len(TITLES)), TITLES.values(), fontsize=11)
        axes.set_xlim(-0.5, len(TITLES) - 0.5)
        axes.axhline(0, color="#333333", linewidth=0.8)
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    low, high = panels[0].get_ylim()
    if high - low < 0.1:  # all gains are 0, and the scale would be 1e-17
        panels[0].set_ylim(-1, 1)
    panels[0].set_ylabel("gain over random weights, points")
    handles: list = [Patch(color=_colour(name), label=NAMES.get(name, name)) for name in objectives]
    if any(cell.get("reported") is not None for cell in table["cells"]):
        published = Line2D([], [], linestyle="none", marker="D", markersize=5, color="white", markeredgecolor="black")
        published.set_label("as published, same colours")
        handles.append(published)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False,
        title="whiskers: standard deviation over seeds; of one seed, the 95 % interval", title_fontsize=8,
    )  # fmt: skip
    write_figure(file, figure)


def _colour(objective: str) -> str:
    return COLOURS.get(objective, "#5b8e5b")


def _bars(axes, places: list[float], cells: list[dict], width: float, colour: str) -> None:
    known = [(place, cell) for place, cell in zip(places, cells) if cell["gain"] is not None]
    if known:
        gains = [cell["gain"] for _, cell in known]
        below = [cell.get("deviation", cell["gain"] - cell.get("low", cell["gain"])) for _, cell in known]
        above = [cell.get("deviation", cell.get("high", cell["gain"]) - cell["gain"]) for _, cell in known]
        style = {"color": colour, "error_kw": {"elinewidth": 1, "capsize": 2.5, "ecolor": "#333333"}}
        axes.bar([place for place, _ in known], gains, width * 0.9, yerr=[below, above], **style)
        for (place, _), gain, up, down in zip(known, gains, above, below):
            edge, side = (gain + up, 1) if gain >= 0 else (gain - down, -1)
            axes.annotate(
                f"{gain:+.1f}", (place, edge), (0, 3 * side), textcoords="offset points", fontsize=8, ha="center",
                va="bottom" if side > 0 else "top",
            )  # fmt: skip
    published = [  # beside the middle, where the whiskers are
        (place + width / 3, cell["reported"]) for place, cell in zip(places, cells) if cell.get("reported") is not None
    ]
    if published:
        style = {"marker": "D", "s": 24, "facecolor": colour, "edgecolor": "black", "linewidth": 1.2, "zorder": 3}
        axes.scatter(*zip(*published), **style)
