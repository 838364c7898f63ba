"""A study's numbers as Markdown, and as a picture with error bars."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.chart import COLOURS, LOW, frame
from bridge.chart import COLUMNS as TITLED
from bridge.evaluation.benchmarks import TITLES
from study.budgets import HEADS
from study.summary import COLUMNS, SECOND_STAGE
from vlm.files import write_figure
from vlm.markdown import ruled

if TYPE_CHECKING:  # takes a second to import
    from matplotlib.figure import Figure

AGAIN = ("", "...", "xx", "oo", "++")  # hatches, of more encoders than there are colours


def score_cells(table: Mapping) -> list[list[str]]:
    """Header, and a line a row: mean ± standard deviation over the seeds."""
    lines = [["", "seeds", *(TITLED[key] for key in COLUMNS)]]
    for name, row in table["rows"].items():
        lines.append([name, ", ".join(map(str, row["seeds"])), *(_mean(row, key) for key in COLUMNS)])
    return lines


def gain_cells(table: Mapping) -> list[list[str]]:
    """Header, and a line a gain with its intervals; [] if there is none."""
    lines = []
    for name, gains in table["gains"].items():
        sides = [list(table["rows"][side]["seeds"]) for side in (name, gains["over"])]
        fewer = any(side != gains["of_seeds"] for side in sides)  # a study that is half done
        numbers = ", ".join(map(str, gains["of_seeds"]))
        of = f", seed{'s' * (len(gains['of_seeds']) > 1)} {numbers} alone" if fewer else ""
        lines.append([f"{name} over {gains['over']}{of}", *(_gain(gains.get(key)) for key in COLUMNS)])
    return [["gain, points", *(TITLED[key] for key in COLUMNS)], *lines] if lines else []


def budget_cells(table: Mapping) -> list[list[str]]:
    """Header, and a line a row: what it is made of; [] if no run says."""
    lines = [[name, *(words[head] for head in HEADS)] for name, words in table["budgets"].items()]
    return [["made of", *HEADS], *lines] if lines else []


def probe_cells(probes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """Header, and a line a number of the probes; [] if none was run."""
    encoders = list(dict.fromkeys(encoder for row in probes.values() for encoder in row))
    lines = [[name, *(_number(row.get(encoder)) for encoder in encoders)] for name, row in probes.items()]
    return [["probe", *encoders], *lines] if lines else []


def _mean(row: Mapping, key: str) -> str:
    if key not in row["mean"]:
        return "-"
    star = "*" if (row["partial"] if key == "mean" else key in row["partial"]) else ""
    return f"{row['mean'][key]:.1f}{star}" + (f" ± {row['sd'][key]:.1f}" if "sd" in row else "")


def _gain(gain: Mapping | None) -> str:
    if gain is None:
        return "-"
    text = f"{gain['gain']:+.1f}"
    if "images" in gain:
        text += " [{:+.1f}, {:+.1f}]".format(*gain["images"])
    if "seeds" in gain:
        text += " s[{:+.1f}, {:+.1f}]".format(*gain["seeds"])
    return text


def _number(found: Mapping[str, float] | None) -> str:
    """Counts without decimals, numbers below 10 with three, others with one."""
    if found is None:
        return "-"
    mean, sd = found["mean"], found.get("sd")
    digits = 0 if not sd and mean == int(mean) else 3 if abs(mean) < 10 else 1
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def notes(table: Mapping) -> list[str]:
    """How the numbers are to be read."""
    lines = ["Percent on held-out images: GQA and VQAv2 accuracy, POPE's mean accuracy of its categories; their mean."]
    asked = [
        f"{TITLES[key]} {entry['split']}, {entry['questions']:,} questions about {entry['images']:,} images"
        for key, entry in table["asked"].items()
    ]
    lines.append("; ".join([f"LLM: {', '.join(table['llms'])}", *asked]) + ".")
    if any("sd" in row for row in table["rows"].values()):
        lines.append(
            "± is the standard deviation over seeds: of a pretrained encoder over its pretraining and the connector's, "
            "of a given one over connectors, of random weights over these and connectors."
        )
    if any(len(row["seeds"]) == 1 for row in table["rows"].values()):
        lines.append("With one seed, no number tells how much another run of the same settings would differ.")
    if any(row["partial"] for row in table["rows"].values()):
        lines.append("* partial: some questions were not answered and count as wrong.")
    if table["gains"]:
        lines.append("[...]: 95 % paired bootstrap interval over images, of the scores averaged over the seeds.")
    if any("seeds" in gain for row in table["gains"].values() for gain in row.values() if isinstance(gain, dict)):
        lines.append("s[...]: 95 % interval of the paired gain over seeds, by Student's t.")
    return lines


def probe_notes(probes: Mapping) -> list[str]:
    """What the numbers of the probes are."""
    lines = ["Probes of the pretrained encoders: accuracies, recalls (r1, r5) and mIoU are fractions of 1, no percent."]
    if any("rank_" in name for name in probes):
        lines.append("rank: effective dimensions of the embeddings.")
    if any("sigreg_" in name for name in probes):
        lines.append("sigreg: their distance from a normal distribution; sigreg_normal is that of normal samples.")
    return lines


def as_markdown(table: Mapping, probes: Mapping) -> str:
    """The tables one under the other, and how to read them."""
    numbers = [ruled(cells) for cells in (score_cells(table), gain_cells(table)) if cells]
    words = [ruled(cells, words=len(cells[0])) for cells in (budget_cells(table),) if cells]
    grids = ["\n".join(lines) for lines in (*numbers, *words)]
    probed = "\n".join(ruled(cells)) if (cells := probe_cells(probes)) else ""
    parts = [*grids, " ".join(notes(table)), probed, " ".join(probe_notes(probes)) if probes else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(table: Mapping) -> "Figure":
    """Bars by benchmark, whiskers of one standard deviation over seeds, a dot for each seed.

    A colour an encoder (with its LLM); what the second stage made of it has the same colour, hatched.
    """
    from matplotlib.figure import Figure

    rows, columns = list(table["rows"].items()), [key for key in COLUMNS if _any_has(table, key)]
    width = 0.8 / len(rows)
    # A bar of a third of an inch holds its number.
    figure = Figure(figsize=(max(6.5, 1.0 + 0.4 * len(columns) * (len(rows) + 1)), 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    for index, (name, row) in enumerate(rows):
        known = [(number, key) for number, key in enumerate(columns) if key in row["mean"]]
        places = [number + (index - (len(rows) - 1) / 2) * width for number, _ in known]
        sds = [row["sd"][key] for _, key in known] if "sd" in row else None
        first = name.removesuffix(SECOND_STAGE)
        colour = colours.setdefault(first, COLOURS[len(colours) % len(COLOURS)])
        again = AGAIN[list(colours).index(first) // len(COLOURS) % len(AGAIN)]
        style = {"color": colour, "hatch": again + ("///" if name != first else ""), "error_kw": {"capsize": 2}}
        axes.bar(places, [row["mean"][key] for _, key in known], width * 0.92, yerr=sds, label=name, **style)
        for place, (_, key) in zip(places, known):
            seeds = [numbers[key] for numbers in row["seeds"].values()]
            _mark(axes, place, row["mean"][key], seeds, top=row["mean"][key] + row.get("sd", {}).get(key, 0))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    frame(figure, columns, "Frozen encoders, one bridge; whiskers: ± 1 SD, dots: seeds")
    return figure


def _mark(axes, place: float, mean: float, seeds: list[float], top: float) -> None:
    """The dots of the seeds, and the mean in figures: in the foot of the bar, or over one that is too low for it.

    top: of its whisker.
    """
    axes.plot([place] * len(seeds), seeds, ".", color="black", markersize=3)
    if mean < LOW + 2:
        axes.text(place, max(top, *seeds) + 1.5, f"{mean:.1f}", ha="center", fontsize=7)
        return
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # no hatch behind the figures
    axes.text(place, 2.5, f"{mean:.1f}", ha="center", fontsize=7, bbox=box)


def _any_has(table: Mapping, key: str) -> bool:
    return any(key in row["mean"] for row in table["rows"].values())


def save_picture(table: Mapping, file: Path) -> None:
    write_figure(file, draw(table))
