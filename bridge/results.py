"""Rows of results side by side: a table with gains and their bootstrap intervals, and a bar chart.

The first row is the one the others are compared with. A row is the folder that bridge/evaluate.py wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.chart import COLUMNS, F1, draw
from bridge.evaluation.benchmarks import TITLES, Benchmark
from bridge.scoring.gains import compared, gain
from vlm.errors import UserError, run_command
from vlm.files import read_json, write_figure, write_file, write_json
from vlm.markdown import SEEN, gain_text, ruled
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python bridge/results.py pretrained=runs/bridge-qwen/eval random=runs/random/eval --out runs
  python bridge/results.py pretrained=A/eval random=B/eval blind=C/eval oracle=A/oracle --out runs"""


@dataclass(frozen=True)
class ResultsConfig:
    """One table."""

    rows: tuple[str, ...] = setting(help="a row's name and its eval folder", metavar="NAME=DIR", positional=True)
    out: str = setting(help="where results.json, .md and .png go", metavar="DIR")


def summary(headlines: Mapping[str, float | None]) -> dict[str, float | None]:
    """Every benchmark's headline number (None: not run or not scored), and their mean."""
    row = {name: headlines.get(name) for name in TITLES}
    known = [value for value in row.values() if value is not None]
    return {**row, "mean": round(sum(known) / len(known), 2) if known else None}


def pope_headline(scores: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Of POPE's score dict, category and "mean" -> accuracy and F1 in percent; {} without one."""
    parts = {name: part for name, part in (scores or {}).items() if name not in ("per_question", "pooled")}
    return {
        category: {name: round(100 * part[name], 2) for name in ("accuracy", "f1")} for category, part in parts.items()
    }


def read_rows(pairs: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of `NAME=DIR` arguments, in order.

    Raises: UserError if an argument is no such pair, a name comes twice, or a DIR has no results.json.
    """
    rows: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not name or not folder:
            raise UserError(f"{pair!r} is no row; give NAME=DIR, DIR being a folder that bridge/evaluate.py wrote")
        if name in rows:
            raise UserError(f"two rows are named {name!r}; give each its own name")
        if not (Path(folder) / "results.json").is_file():
            raise UserError(f"{folder} has no results.json; run bridge/evaluate.py with --out {folder} first")
        rows[name] = Path(folder)
    return rows


def check_comparable(rows: Mapping[str, Path], mode: str, benchmarks: Sequence[Benchmark]) -> None:
    """Raise a UserError, before hours of work, if a row was scored in another mode or over other questions."""
    for name, folder in rows.items():
        report = read_report(folder)
        _check_mode(name, report["mode"], "this", mode)
        for benchmark in benchmarks:
            if report["summary"].get(benchmark.name) is None:
                continue
            scored = _per_question(folder, benchmark.name, report)
            if scored["images"] != {example.question_id: example.image.name for example in benchmark.examples}:
                raise UserError(
                    f"{TITLES[benchmark.name]} of {name} was scored over other questions than these: give the same "
                    "split and --limit-images, or leave that --baseline out"
                )


def check_place(out: Path, evaluation: bool) -> None:
    """Raise a UserError if `out` holds the results.json of the other command: it would be lost.

    evaluation: whether bridge/evaluate.py is to write there, else a table of this module.
    """
    file = out / "results.json"
    found = read_json(file) if file.is_file() else None
    if isinstance(found, dict) and ("benchmarks" in found) != evaluation:
        writer = "bridge/results.py" if evaluation else "bridge/evaluate.py"
        raise UserError(f"{file} is a result of {writer}, which would be lost: give another --out")


def read_report(folder: Path) -> dict:
    """results.json of an evaluation. Raises: UserError if it is of something else, or damaged."""
    report = read_json(folder / "results.json")
    if not _is_report(report):
        raise UserError(f"{folder / 'results.json'} was not written by bridge/evaluate.py: give one of its folders")
    return report


def _is_report(found: Any) -> bool:
    if not isinstance(found, dict) or not {"mode", "sees", "benchmarks", "summary"} <= found.keys():
        return False
    entries, numbers = found["benchmarks"], found["summary"]
    if not isinstance(entries, dict) or not isinstance(numbers, dict) or not {*TITLES, "mean"} <= numbers.keys():
        return False
    return all(isinstance(entry, dict) and "partial" in entry for entry in entries.values())


def _per_question(folder: Path, name: str, report: dict) -> dict:
    """{"scores": {question id: points}, "images": {question id: image}} of one benchmark.

    report: results.json beside it.
    Raises: UserError if that is not what the file holds, or if the report is of another number of questions.
    """
    file = folder / "per_question" / f"{name}.json"
    found = read_json(file)
    again = "run bridge/evaluate.py with this --out again"
    if not isinstance(found, dict) or not {"scores", "images"} <= found.keys():
        raise UserError(f"{file} was not written by bridge/evaluate.py: {again}")
    asked = report["benchmarks"].get(name, {}).get("questions")
    if asked is not None and asked != len(found["images"]):  # of GQA's unbalanced splits not all have scores
        raise UserError(f"{file} has {len(found['images'])} questions, results.json beside it {asked}: {again}")
    return found


def _check_mode(name: str, mode: str, other: str, expected: str) -> None:
    if mode != expected:
        raise UserError(f"{name} was scored in mode {mode}, {other} in {expected}; evaluate both in the same --mode")


def compare(rows: Mapping[str, Path]) -> dict:
    """{"reference": first row's name, "rows": {name: numbers}, "gains": {name: {benchmark: gain}}}.

    A row has the 95 % interval of each of its numbers under "intervals", by a bootstrap over images. A gain is the
    reference's number less the row's, in points, with such an interval.
    Rows that see captions are a ceiling and get no gain.
    Raises: UserError if two rows were scored in different modes or over different questions.
    """
    reports = {name: read_report(folder) for name, folder in rows.items()}
    reference = next(iter(rows))
    table: dict = {"reference": reference, "rows": {}, "gains": {}}
    for name, report in reports.items():
        _check_mode(name, report["mode"], reference, reports[reference]["mode"])
        partial = [key for key, entry in report["benchmarks"].items() if entry["partial"]]
        intervals = _intervals(rows[name], report)
        asked = {key: _asked(entry) for key, entry in report["benchmarks"].items()}
        about = {"sees": report["sees"], "partial": partial, "mode": report["mode"], "asked": asked}
        about |= {"folder": str(rows[name].absolute()), "intervals": intervals}
        pope = pope_headline(report["benchmarks"].get("pope", {}).get("scores"))
        f1 = {F1: pope["mean"]["f1"] if pope else None}
        table["rows"][name] = {**report["summary"], **f1, **about, "pope_categories": pope}
        if name != reference and "captions" not in (report["sees"], reports[reference]["sees"]):
            table["gains"][name] = _gains(reference, name, rows, reports, table["rows"])
    return table


def _asked(entry: Mapping) -> str:
    """ "testdev, 12,578 questions about 398 images" """
    split, questions, images = (entry.get(name) for name in ("split", "questions", "images"))
    return f"{split}, {questions:,} questions about {images:,} images" if questions and images else str(split)


def _intervals(folder: Path, report: dict) -> dict[str, tuple[float, float]]:
    """Bounds of a row's numbers and of their mean: of its gain over a model that is never right."""
    never = {}
    for key in (key for key in TITLES if report["summary"][key] is not None):
        found = _per_question(folder, key, report)
        never[key] = found["scores"], dict.fromkeys(found["scores"], 0.0), found["images"]
    gains = {key: gain({key: each}) for key, each in never.items()}
    if never:
        gains["mean"] = gain(never)
    return {key: (each["low"], each["high"]) for key, each in gains.items()}


def _gains(
    reference: str,
    name: str,
    rows: Mapping[str, Path],
    reports: Mapping[str, dict],
    numbers: Mapping[str, Mapping],
) -> dict:
    """The gains of `reference` over `name` in every benchmark that both have, and their mean."""
    ours, theirs = numbers[reference], numbers[name]
    shared = [key for key in TITLES if ours[key] is not None and theirs[key] is not None]
    gains, both = {}, {}
    for key in shared:
        after, before = (_per_question(rows[row], key, reports[row]) for row in (reference, name))
        try:
            both[key] = compared(after, before)
            interval = gain({key: both[key]})
        except UserError as error:
            raise UserError(f"{TITLES[key]} of {reference} and {name}: {error}") from None
        gains[key] = {**interval, "gain": round(ours[key] - theirs[key], 2)}
    if ours[F1] is not None and theirs[F1] is not None:
        gains[F1] = {"gain": round(ours[F1] - theirs[F1], 2)}
    if shared:
        our_mean, their_mean = (sum(row[key] for key in shared) / len(shared) for row in (ours, theirs))
        gains["mean"] = {**gain(both), "gain": round(our_mean - their_mean, 2)}
    return gains


def cells(table: dict, intervals: bool = False) -> list[list[str]]:
    """Header, one line a row, one line a gain. intervals: also those of the rows' own numbers."""
    lines = [["", *COLUMNS.values()]]
    for name, row in table["rows"].items():
        label = name + SEEN.get(row["sees"], "")
        lines.append([label, *(_score_text(row, key, intervals) for key in COLUMNS)])
    for name, gains in table["gains"].items():
        lines.append([f"gain over {name}", *(gain_text(gains.get(key)) for key in COLUMNS)])
    return lines


def pope_cells(table: dict) -> list[list[str]]:
    """Accuracy and F1 of each of POPE's categories, a line a row; [] if no row has POPE."""
    rows = {name: row["pope_categories"] for name, row in table["rows"].items() if row["pope_categories"]}
    names = dict.fromkeys(category for row in rows.values() for category in row if category != "mean")
    if not rows:
        return []
    lines = [["POPE, accuracy / F1", *names, "mean"]]
    for name, row in rows.items():
        parts = [row.get(category) for category in (*names, "mean")]
        lines.append([name, *(f"{part['accuracy']:.2f} / {part['f1']:.2f}" if part else "-" for part in parts)])
    return lines


def _score_text(row: Mapping, key: str, intervals: bool) -> str:
    """A number of a row; * if it is partial, the mean if any of the row is."""
    if row[key] is None:
        return "-"
    partial = bool(row["partial"]) if key == "mean" else key.removesuffix("_f1") in row["partial"]
    interval = " [{:.1f}, {:.1f}]".format(*row["intervals"][key]) if intervals and key in row["intervals"] else ""
    return f"{row[key]:.2f}" + ("*" if partial else "") + interval


def notes(table: dict) -> list[str]:
    """How the numbers of the table are to be read."""
    lines = ["Percent: GQA accuracy, VQAv2 overall accuracy, POPE mean accuracy of its categories (50 is chance)"]
    lines[0] += " and their mean F1; the mean is of the benchmarks that a row has."
    lines += _what_was_asked(table["rows"])
    if table["gains"]:
        lines.append("Gains in points, of what both rows have, with 95 % paired bootstrap intervals over images.")
    if any(row["partial"] for row in table["rows"].values()):
        lines.append("* partial: some questions were not answered and count as wrong.")
    return lines


def _what_was_asked(rows: Mapping[str, Mapping]) -> list[str]:
    """By benchmark, split and numbers of questions and images; of each row if rows were asked different ones."""
    lines = []
    for key, title in TITLES.items():
        asked = {name: row["asked"][key] for name, row in rows.items() if row.get("asked", {}).get(key)}
        if len(set(asked.values())) == 1:
            lines.append(f"{title}: {next(iter(asked.values()))}.")
        elif asked:
            each = "; ".join(f"{name} {words}" for name, words in asked.items())
            lines.append(f"{title}, NOT the same questions: {each}.")
    modes = {row.get("mode", "official") for row in rows.values()}
    return [*lines, "By lmms-eval's rules."] if modes == {"lmms"} else lines


def as_text(table: dict) -> str:
    """The table for a terminal, columns aligned."""
    return "\n".join([*_aligned(cells(table)), *notes(table), *_aligned(pope_cells(table))])


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]


def as_markdown(table: dict) -> str:
    """The table in Markdown, its notes below."""
    lines = [*ruled(cells(table)), "", " ".join(notes(table)), ""]
    if pope := pope_cells(table):
        lines += [*ruled(pope), ""]
    return "\n".join(lines)


def write(table: dict, out: Path) -> None:
    """OUT/results.md and OUT/results.png."""
    write_file(out / "results.md", as_markdown(table))
    write_figure(out / "results.png", draw(table))


def main() -> None:
    config = parse(ResultsConfig, prog="python bridge/results.py", about=__doc__, examples=EXAMPLES)
    check_place(Path(config.out), evaluation=False)
    table = compare(read_rows(config.rows))
    write_json(Path(config.out) / "results.json", table)
    write(table, Path(config.out))
    print(as_text(table))


if __name__ == "__main__":
    run_command(main)
