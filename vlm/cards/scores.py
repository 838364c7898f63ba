"""Scores in a model card: what bridge/evaluate.py or bridge/results.py wrote, as a table and as model-index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from vlm.cards.card import with_section
from vlm.errors import UserError
from vlm.files import read_json
from vlm.markdown import SEEN, gain_text, ruled

TITLES = {"gqa": "GQA", "vqav2": "VQAv2", "pope": "POPE"}
THIS = "this model"


def with_scores(card: ModelCard, source: str, digest: str) -> ModelCard:
    """`card` with the scores of `source`: a results.json, or the folder of one.

    digest: of the VLM that the card is for, as `vlm.llava.digest.content_digest` gives it.
    Raises: UserError if the file was not written by those commands, or is about another model.
    """
    file = Path(source) / "results.json" if Path(source).is_dir() else Path(source)
    found = read_json(file)
    try:
        if "rows" in found:
            name, rows = found["reference"], dict(found["rows"])
            own, others, gains = rows.pop(name), rows, found["gains"]
            report = read_json(Path(own["folder"]) / "results.json")
            if any(own.get(key) != value for key, value in report["summary"].items()):
                raise UserError(
                    f"{file} is of another evaluation than {own['folder']} holds now: make that table again"
                )
        else:
            report, own, gains = found, found["summary"], found.get("gains", {})
            others = found.get("baselines", {})
        if report["origin"]["model"] != digest:
            raise UserError(f"{file} holds the scores of another model ({report['model']}): evaluate this one")
        if report["sees"] != "images":
            raise UserError(f"{file}: the model saw {report['sees']}, not its images: evaluate it as it is")
        data: Any = card.data
        data.eval_results = _index(report)
        body = _table(own, others, gains) + "\n" + _notes(report)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} was not written by bridge/evaluate.py or bridge/results.py (no {error}): give one of theirs"
        ) from None
    return with_section(card, "Scores", body)


def _index(report: Mapping[str, Any]) -> list[EvalResult]:
    """One entry a benchmark that was scored. The name says how much of it: a subset is not the benchmark."""
    results = []
    for name, entry in report["benchmarks"].items():
        if entry["headline"] is not None:
            results.append(
                EvalResult(
                    task_type="visual-question-answering",
                    dataset_type=name,
                    dataset_name=f"{TITLES[name]}, {entry['questions']} questions about {entry['images']} images",
                    dataset_split=str(entry["split"]),
                    metric_type="accuracy",
                    metric_value=entry["headline"],
                )
            )
    return results


def _table(own: Mapping[str, Any], others: Mapping[str, Any], gains: Mapping[str, Any]) -> str:
    """A row a model, then a row a gain with its interval."""
    columns = [*TITLES, "mean"]
    lines = [["", *TITLES.values(), "mean"]]
    for name, row in {f"**{THIS}**": own, **others}.items():
        label = name + SEEN.get(row.get("sees", "images"), "")
        lines.append([label, *("-" if row.get(key) is None else f"{row[key]:.2f}" for key in columns)])
    for name, gain in gains.items():
        lines.append([f"gain over {name}", *(gain_text(gain.get(key)) for key in columns)])
    return "\n".join([*ruled(lines), ""])


def _notes(report: Mapping[str, Any]) -> str:
    """On what, by which rule, and in what precision."""
    on = ", ".join(
        f"{TITLES[name]} {entry['split']} ({entry['questions']} questions about {entry['images']} images"
        + (", partial)" if entry["partial"] else ")")
        for name, entry in report["benchmarks"].items()
    )
    return (
        f"Percent, by the {report['mode']} rules, in {report['dtype']}, on files in the layout of {on}. POPE: mean "
        "accuracy of its categories (50 is chance). Gains: points, with 95 % paired bootstrap intervals over images.\n"
    )
