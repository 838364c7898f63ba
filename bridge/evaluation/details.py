"""Score dicts of `bridge.scoring` as text: every number in rows, or each breakdown in one line."""

from collections.abc import Iterable, Mapping

from bridge.scoring.pope import AVERAGED, RANDOM_FILES

Row = tuple[str, ...]  # (heading,) or (name, value)
GQA_NUMBERS = ("accuracy", "binary", "open", "validity", "plausibility", "consistency", "distribution")


def rows(name: str, scores: Mapping) -> list[Row]:
    """Everything in the score dict of gqa, vqav2 or pope (with its categories) but the single questions."""
    return {"gqa": _gqa, "vqav2": _vqav2, "pope": _pope}[name](scores)


def as_text(rows: Iterable[Row]) -> str:
    """The rows as lines, their values in one column."""
    rows = list(rows)
    width = max(len(row[0]) for row in rows if len(row) > 1)
    return "\n".join(row[0] if len(row) == 1 else f"{row[0]:<{width}}  {row[1]}" for row in rows)


def brief(name: str, scores: Mapping) -> list[str]:
    """A line for each breakdown; VQAv2's 65 question types and GQA's steps are left to `rows`."""
    if name == "vqav2":
        return [f"VQAv2 by answer type: {_joined(scores['per_answer_type'], {})}"]
    lines: list[str] = []
    if name == "pope":
        categories = _categories(scores)
        for category, part in categories.items():
            numbers = _pope_line([part], part)
            lines.append(f"POPE {category}: {numbers}, {part['unparsed']} answers neither yes nor no")
        if "mean" in scores and len(categories) > 1:
            lines.append(f"POPE mean: {_pope_line(categories.values(), scores['mean'])}")
        return lines
    lines.append("GQA: " + ", ".join(f"{name} {_gqa_number(name, scores)}" for name in GQA_NUMBERS[1:]))
    for kind in ("structural", "semantic"):
        values, counts = scores[f"per_{kind}_type"], scores["counts"][f"{kind}_type"]
        lines.append(f"GQA by {kind} type: {_joined(values, counts)}")
    return lines


def _pope_line(parts: Iterable[Mapping], values: Mapping) -> str:
    """ "accuracy 50.00, precision -, ..." in percent. parts: the categories that the values are of."""
    parts = list(parts)
    return ", ".join(f"{name.replace('_', ' ')} {_pope_number(name, parts, values[name], True)}" for name in AVERAGED)


def _joined(scores: Mapping[str, float], counts: Mapping[str, int]) -> str:
    """{"attr": 50.0}, {"attr": 2} -> "attr 50.00 of 2"; without a count "attr 50.00" """
    of_count = {key: f" of {count}" for key, count in counts.items()}
    return ", ".join(f"{key} {value:.2f}{of_count.get(key, '')}" for key, value in sorted(scores.items()))


def _gqa_number(name: str, scores: Mapping) -> str:
    """ "-" for what nothing was there to measure by, such as validity without choices."""
    return "-" if name in scores.get("not_measured", ()) else f"{scores[name]:.2f}"


def _pope_number(name: str, parts: Iterable[Mapping], value: float, percent: bool = False) -> str:
    """ "-" if in one of the `parts` that `value` is of, the metric divides by zero."""
    if any(_undefined(name, part) for part in parts):
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4f}"


def _undefined(name: str, part: Mapping) -> bool:
    """Whether nothing was there to measure one of POPE's metrics by: nobody said yes, or no label is yes."""
    said, true = part["tp"] + part["fp"], part["tp"] + part["fn"]
    answered = part["questions"] - part["missing"]
    return {"precision": said == 0, "recall": true == 0, "f1": said + true == 0, "yes_ratio": answered == 0}.get(
        name, False
    )


def _gqa(scores: Mapping) -> list[Row]:
    rows = _head("GQA", scores)
    rows += [(name, _gqa_number(name, scores)) for name in GQA_NUMBERS]
    for breakdown, counts in scores["counts"].items():
        rows.append((f"per {breakdown.replace('_', ' ')}",))
        for key, value in sorted(scores[f"per_{breakdown}"].items()):
            rows.append((f"  {key}", f"{value:.2f}  ({counts[key]} questions)"))
    return rows


def _vqav2(scores: Mapping) -> list[Row]:
    rows = [*_head("VQAv2", scores), ("overall", f"{scores['overall']:.2f}")]
    for breakdown in ("answer_type", "question_type"):
        rows.append((f"per {breakdown.replace('_', ' ')}",))
        rows += [(f"  {key}", f"{value:.2f}") for key, value in sorted(scores[f"per_{breakdown}"].items())]
    return rows


def _pope(scores: Mapping) -> list[Row]:
    categories = _categories(scores)
    mode = next(iter(categories.values()))["mode"]
    rows: list[Row] = [(f"POPE, {mode} mode",)]
    for category, part in categories.items():
        rows.append((_pope_title(category, part),))
        rows += [(f"note: {note}",) for note in part.get("notes", ())]
        rows += [(f"  {name}", _pope_number(name, [part], part[name])) for name in AVERAGED]
        rows += [(f"  {name}", str(part[name])) for name in ("tp", "fp", "tn", "fn", "unparsed")]
    for together in ("mean", "pooled"):
        if together in scores and len(categories) > 1:
            rows.append((together,))
            parts = [scores["pooled"]] if together == "pooled" else list(categories.values())
            rows += [(f"  {name}", _pope_number(name, parts, scores[together][name])) for name in AVERAGED]
    return rows


def _categories(scores: Mapping) -> dict[str, Mapping]:
    return {name: part for name, part in scores.items() if name not in ("mean", "pooled", "per_question")}


def _head(title: str, scores: Mapping) -> list[Row]:
    """What was scored, and what of it is partial."""
    what = f"{scores['mode']} mode, {scores['questions']} questions, predictions {scores['predictions']}"
    rows: list[Row] = [(f"{title}, {what}",)]
    if scores["missing"]:
        rows.append((f"partial: {scores['missing']} questions have no prediction and count as wrong",))
    if scores.get("extra"):
        rows.append((f"{scores['extra']} predictions are for questions that are not in this file; ignored",))
    if scores.get("entailed_left_out"):
        rows.append((f"consistency leaves out {scores['entailed_left_out']} entailed questions without a prediction",))
    return rows + [(f"note: {note}",) for note in scores.get("notes", ())]


def _pope_title(category: str, part: Mapping) -> str:
    version = RANDOM_FILES.get(part["questions"]) if category == "random" else None
    version = f" ({version})" if version else ""
    missing = f"; partial: {part['missing']} have no answer and count as wrong" if part["missing"] else ""
    extra = f"; {part['extra']} answers are for other questions, ignored" if part["extra"] else ""
    return f"{category}: {part['questions']} questions{version}{missing}{extra}"
