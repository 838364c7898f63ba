"""A study as one HTML page: its tables and picture, and answers on which the encoders disagree, with their images."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from bridge.evaluation.benchmarks import TITLES
from bridge.evaluation.examples import RIGHT, Answered, chosen
from bridge.report import card
from study.settings import StudySettings
from study.summary import rows
from study.tables import budget_cells, draw, gain_cells, notes, probe_cells, probe_notes, score_cells
from vlm.errors import UserError
from vlm.files import read_json, write_file
from vlm.run.page import drawn, note, page, settings_table
from vlm.run.page import table as grid


def disagreements(name: str, folders: Mapping[str, Path], data: str, count: int) -> list[Answered]:
    """Questions that some rows answer right and others wrong, `count` at most, of many images.

    The seed 0 decides which, not who is right.
    Raises: UserError if the benchmark's questions cannot be read.
    """
    found = chosen(name, folders, data, 10**9, seed=0)
    one_of_each = [answered for pair in _alternating(found["right"], found["wrong"]) for answered in pair]
    return [each for each in one_of_each if len({points >= RIGHT for _, points in each.answers.values()}) == 2][:count]


def _alternating(right: list[Answered], wrong: list[Answered]) -> list[list[Answered]]:
    """By turns where the first row is right and where it is wrong."""
    return [right[number : number + 1] + wrong[number : number + 1] for number in range(max(len(right), len(wrong)))]


def examples(settings: StudySettings) -> str:
    """Cards by benchmark, of the first seed that every row has."""
    folders = rows(settings)
    shared = [seed for seed in settings.seeds if all(seed in of_seeds for of_seeds in folders.values())]
    if len(folders) < 2 or not shared or not settings.examples:
        return ""
    of_seed = {name: of_seeds[shared[0]] for name, of_seeds in folders.items()}
    entries = read_json(next(iter(of_seed.values())) / "results.json")["benchmarks"]
    parts = [
        note(f"Runs of seed {shared[0]}. Questions that some rows answer right and others wrong, in a random order.")
    ]
    for name, entry in entries.items():
        if entry["scores"] is None:
            continue
        try:
            found = disagreements(name, of_seed, entry["data"], settings.examples)
        except UserError as error:
            parts.append(note(f"{TITLES[name]}: no examples, for {error}"))
            continue
        cards = "\n".join(card(each) for each in found) or note("they agree on every question")
        parts.append(f'<h3>{TITLES[name]}</h3>\n<div class="cards">{cards}</div>')
    return "\n".join(parts)


def write_page(settings: StudySettings, table: Mapping, probes: Mapping, kept: Mapping, file: Path) -> None:
    """Write OUT/study.html. kept: the settings as they are shown."""
    head = grid(score_cells(table), header=True)
    if table["gains"]:
        head += grid(gain_cells(table), header=True)
    if table["budgets"]:
        head += grid(budget_cells(table), header=True)
    head += "".join(note(line) for line in notes(table))
    sections = {"": head, "Picture": drawn("Mean over seeds, one standard deviation, and every seed.", draw(table))}
    if probes:
        words = "".join(note(line) for line in probe_notes(probes))
        sections["Probes of the encoders"] = grid(probe_cells(probes), header=True) + words
    if shown := examples(settings):
        sections["Where they disagree"] = shown
    typed = {name: shlex.join(map(str, value)) if isinstance(value, tuple) else value for name, value in kept.items()}
    sections["Settings"] = settings_table(typed)
    write_file(file, page(f"Study {settings.out}", sections))
