"""The command `python bridge/report.py RUN`: a bridge run on one HTML page that needs no other file.

Curves, scores beside those of other evaluations with 95 % intervals, and answers right and wrong with their images.
"""

import html
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge import results
from bridge.chart import draw
from bridge.data.pictures import open_picture
from bridge.evaluation.benchmarks import TITLES
from bridge.evaluation.examples import RIGHT, Answered, chosen
from vlm.errors import UserError, run_command
from vlm.files import read_json, read_jsonl, write_file
from vlm.run.page import drawn, folded, note, page, picture, settings_table, table
from vlm.run.settings import parse, seed_setting, setting

EXAMPLES = """examples:
  python bridge/report.py runs/bridge-smollm2                          with the scores of RUN/eval, if it is there
  python bridge/report.py runs/qwen --eval trained=runs/qwen/eval random=runs/random/eval blind=runs/blind/eval
  python bridge/report.py runs/qwen --gqa /data/gqa --examples 20      the images have moved there

The first evaluation is the run's own: its answers are shown, and the others are compared with it."""
PANELS = {
    "loss, per answer token": ("loss",),
    "gradient norm before clipping": ("gradient_norm",),
    "learning rate": ("lr",),
    "questions a second": ("questions_per_s",),
    "tokens a step": ("tokens", "answer_tokens"),
}
LOOKS = 6  # columns of the table of held-out answers
EXACT, LOGARITHMIC = ("learning rate",), ("gradient norm before clipping",)


@dataclass(frozen=True)
class ReportConfig:
    """A run to draw."""

    run: str = setting(help="the folder that bridge/train.py wrote", positional=True)
    eval: str | None = setting(
        None,
        help="evaluations, the run's own first",
        metavar="NAME=DIR",
        joined="\n",
        default_text="RUN/eval and its baselines, if they are there",
    )
    examples: int = setting(6, help="right and wrong answers shown of each benchmark, each", metavar="N", least=0)
    seed: int = seed_setting(help="decides which")
    gqa: str | None = setting(None, help="where GQA lies, if it has moved since", metavar="DIR")
    vqav2: str | None = setting(None, help="where VQAv2 lies", metavar="DIR")
    pope: str | None = setting(None, help="where POPE lies", metavar="DIR")
    out: str | None = setting(None, help="the page", metavar="FILE", default_text="RUN/report.html")


def evaluations(config: ReportConfig) -> dict[str, Path]:
    """Name -> evaluation folder: those given, else RUN/eval with the baselines that it was compared with.

    Raises: UserError as `results.read_rows`.
    """
    if config.eval is not None:
        return results.read_rows(config.eval.split("\n"))
    run, own = Path(config.run), Path(config.run) / "eval"
    if not (own / "results.json").is_file():
        return {}
    rows = {run.resolve().name: own}
    for name, row in results.read_report(own).get("baselines", {}).items():
        folder = Path(row["folder"])
        if (folder / "results.json").is_file():
            rows[f"{name} (baseline)" if name in rows else name] = folder
        else:
            print(f"the baseline {name} is no longer in {folder}: left out; give --eval NAME=DIR", file=sys.stderr)
    return rows


def facts(config: Mapping, records: list[dict], left_out: int, saved: bool) -> list[list[str]]:
    """The table at the head of the page: name, value."""
    values = [record.get("loss") for record in records]
    losses = [value for value in values if value is not None and math.isfinite(value)]  # older runs wrote NaN
    skipped = sum(record.get("gradient_norm") is None for record in records)
    sets = [f"{name} {config[name]} ({config[f'{name}_split']})" for name in ("gqa", "vqav2") if config.get(name)]
    sets += [f"conversations {config['conversations']}"] if config.get("conversations") else []
    parts = [["goes on from", config["init"]]] if config.get("init") else []
    parts += [[name, config[key]] for name, key in (("LLM", "llm"), ("encoder", "encoder")) if config.get(key)]
    learns = f"connector and LoRA of rank {config['lora']}" if config.get("lora") else "connector"
    return [
        *parts,
        ["trained on", ", ".join(sets)],
        ["what learns", f"{learns}, peak learning rate {config['lr']}, seed {config['seed']}"],
        ["steps", f"{len(records):,}" + ("" if saved else ", not finished")],
        ["questions seen", f"{sum(record['questions'] for record in records):,}"],
        ["last loss", f"{losses[-1]:.4f}" if losses else "none finite"],
        ["steps skipped", str(skipped)],
        ["questions left out", f"{left_out:,}"],
    ]


def learning_section(looks: list[dict]) -> str:
    """The lines of held_out.jsonl as a table: a question a row, its answers after a few of the steps, also the last."""
    shown = [looks[round(place * (len(looks) - 1) / max(1, LOOKS - 1))] for place in range(LOOKS)]
    shown = list({look["step"]: look for look in shown}.values())  # of few looks, each once
    header = ["question", "truth", *(f"step {look['step'] + 1}" for look in shown)]
    by_step = [{row["question_id"]: row["answer"] for row in look["answers"]} for look in shown]
    rows = [
        [row["question"], row["truth"], *(answers.get(row["question_id"], "-") for answers in by_step)]
        for row in looks[-1]["answers"]
    ]
    return note(f"Questions: {looks[-1]['source']}.") + table([header, *rows], header=True)


def scores_section(rows: Mapping[str, Path]) -> str:
    """The table with intervals, its bar chart, POPE's categories, and every score by type of question."""
    compared = results.compare(rows)
    grid = results.cells(compared, intervals=True)
    parts = [table(grid, header=True)]
    parts += [note(line) for line in results.notes(compared)]
    parts.append(note("Numbers in brackets are 95 % bootstrap intervals over images."))
    if pope := results.pope_cells(compared):
        parts.append(table(pope, header=True))
    if any(row["mean"] is not None for row in compared["rows"].values()):
        parts.append(drawn("Scores with their 95 % intervals.", draw(compared)))
    details = next(iter(rows.values())) / "details.txt"
    if details.is_file():
        text = html.escape(details.read_text(encoding="utf-8"))
        parts.append(folded(f"scores of {next(iter(rows))} by type of question", f"<pre>{text}</pre>"))
    folders = [[name, str(folder), results.read_report(folder).get("model", "-")] for name, folder in rows.items()]
    parts.append(table([["row", "evaluation", "model"], *folders], header=True))
    return "\n".join(parts)


def examples_section(rows: Mapping[str, Path], config: ReportConfig) -> str:
    """Cards of right and wrong answers, benchmark by benchmark; a note where the images are not found."""
    entries = results.read_report(next(iter(rows.values())))["benchmarks"]
    parts = []
    for name, entry in entries.items():
        if entry.get("scores") is None:
            parts.append(note(f"{TITLES[name]}: the true answers of {entry.get('split')} are not public."))
            continue
        data = getattr(config, name) or entry.get("data")
        try:
            if not data:
                raise UserError("the evaluation does not say where its images are")
            found = chosen(name, rows, data, config.examples, config.seed)
        except UserError as error:
            problem = f"{TITLES[name]}: no examples, for {error}; say where they are by --{name} DIR"
            print(problem, file=sys.stderr)
            parts.append(note(problem))
            continue
        for kind, answered in found.items():
            cards = "\n".join(card(each) for each in answered) or note("none")
            parts.append(f'<h3>{TITLES[name]}, answered {kind}</h3>\n<div class="cards">{cards}</div>')
    first = html.escape(next(iter(rows)))
    how = f"Chosen by the seed alone from what {first} answered right ({RIGHT:.0f} points of 100 or more) and wrong."
    return "\n".join([f'<p class="note">{how}</p>', *parts])


def card(answered: Answered) -> str:
    """A question under its image, the true answer, and each row's own with its points."""
    example = answered.example
    try:
        image = picture(open_picture(example.image), example.question)
    except UserError as error:
        image = note(str(error))
    lines = [f"<p><b>{html.escape(example.question)}</b></p>", f"<p>truth: {html.escape(example.answer or '-')}</p>"]
    for row, (text, points) in answered.answers.items():
        mark, kind = ("✓", "right") if points >= RIGHT else ("✗", "wrong")
        partly = "" if points in (0, 100) else f" ({points:.0f} points)"
        lines.append(f'<p class="{kind}">{mark} {html.escape(row)}: {html.escape(text or "-")}{partly}</p>')
    return f'<div class="card">{image}{"".join(lines)}</div>'


def write_report(config: ReportConfig) -> Path:
    """Write the page. Raises: UserError if the run has no step yet, or an evaluation cannot be read."""
    run, rows = Path(config.run), evaluations(config)
    settings = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    metrics, bad = run / "metrics.jsonl", run / "quarantine.jsonl"
    records = list(read_jsonl(metrics)) if metrics.is_file() else []
    if not records or "llm" not in settings:
        raise UserError(f"{run} holds no bridge run with a first step: give the --out of bridge/train.py")
    from vlm.run.curves import curves  # imports matplotlib

    left_out = sum(1 for _ in read_jsonl(bad)) if bad.is_file() else 0
    head = table(facts(settings, records, left_out, saved=(run / "vlm").is_dir())) + settings_table(settings)
    figure = curves(records, PANELS, EXACT, LOGARITHMIC)
    sections = {"": head, "Curves": drawn("What is noisy is faint under its running mean.", figure)}
    looks = list(read_jsonl(run / "held_out.jsonl")) if (run / "held_out.jsonl").is_file() else []
    if looks:
        sections["Answers while it learnt"] = learning_section(looks)
    if rows:
        sections["Scores"] = scores_section(rows)
        if config.examples:
            sections["Answers"] = examples_section(rows, config)
    else:
        sections["Scores"] = note(f"None yet: python bridge/evaluate.py {run / 'vlm'} writes {run / 'eval'}.")
    report = Path(config.out) if config.out else run / "report.html"
    write_file(report, page(f"Bridge {run}", sections))
    return report


def main() -> None:
    config = parse(ReportConfig, prog="python bridge/report.py", about=__doc__, examples=EXAMPLES)
    print(f"report written to {write_report(config)}")


if __name__ == "__main__":
    run_command(main)
