"""Score dicts of `bridge.scoring` as text: every number in rows, or each breakdown in one line."""

from collections.abc import Iterable, Mapping

from bridge.scoring.pope import AVERAGED, RANDOM_FILES

Row = tuple[str, ...]  # (heading,) or (name, value)
GQA_NUMBERS = ("accuracy", "binary", "open", "validity", "plausibility", "consistency", "distribution")


def rows(name: str, scores: Mapping) -> list[Row]:
    """Everything in the score dict of gqa, vqav2 or pope (with its categories) but the single questions."""
    return {"gqa": _gqa, "vqav2": _vqav2, "pope": _pope}[name](scores)


def as_text(rows: Iterable[Row]) -> str:
    rows = list(rows)
    width = max(len(row[0]) for row in rows if len(row) > 1)
    return "\n".join(f"{name:<{width}}  {value[0]}" if value else name for name, *value in rows)


def brief(name: str, scores: Mapping) -> list[str]:
    """A line for each breakdown; VQAv2's 65 question types and GQA's steps are left to `rows`."""
    if name == "pope":
        return [
            f"POPE {category}: "
            + ", ".join(f"{number.replace('_', ' ')} {100 * part[number]:.2f}" for number in AVERAGED)
            + f", {part['unparsed']} answers neither yes nor no"
            for category, part in _categories(scores).items()
        ]
    if name == "vqav2":
        return [f"VQAv2 by answer type: {_joined(scores['per_answer_type'])}"]
    return [
        f"GQA: {', '.join(f'{number} {scores[number]:.2f}' for number in GQA_NUMBERS[1:])}",
        f"GQA by structural type: {_joined(scores['per_structural_type'], scores['counts']['structural_type'])}",
        f"GQA by semantic type: {_joined(scores['per_semantic_type'], scores['counts']['semantic_type'])}",
    ]


def _joined(scores: Mapping[str, float], counts: Mapping[str, int] | None = None) -> str:
    sizes = {key: f" of {counts[key]}" if counts else "" for key in scores}
    return ", ".join(f"{key} {value:.2f}{sizes[key]}" for key, value in sorted(scores.items()))


def _gqa(scores: Mapping) -> list[Row]:
    rows = [*_head("GQA", scores), *((name, f"{scores[name]:.2f}") for name in GQA_NUMBERS)]
    for name, counts in scores["counts"].items():
        rows += [(f"per {name.replace('_', ' ')}",)]
        for key, value in sorted(scores[f"per_{name}"].items()):
            rows.append((f"  {key}", f"{value:.2f}  ({counts[key]} questions)"))
    return rows


def _vqav2(scores: Mapping) -> list[Row]:
    rows = [*_head("VQAv2", scores), ("overall", f"{scores['overall']:.2f}")]
    for name in ("answer_type", "question_type"):
        rows += [(f"per {name.replace('_', ' ')}",)]
        rows += [(f"  {key}", f"{value:.2f}") for key, value in sorted(scores[f"per_{name}"].items())]
    return rows


def _pope(scores: Mapping) -> list[Row]:
    categories = _categories(scores)
    mode = next(iter(categories.values()))["mode"]
    rows: list[Row] = [(f"POPE, {mode} mode",)]
    for category, part in categories.items():
        rows += [(_pope_title(category, part),), *((f"  {name}", f"{part[name]:.4f}") for name in AVERAGED)]
        rows += [(f"  {name}", str(part[name])) for name in ("tp", "fp", "tn", "fn", "unparsed")]
    for name in ("mean", "pooled"):
        if name in scores and len(categories) > 1:
            rows += [(name,), *((f"  {metric}", f"{scores[name][metric]:.4f}") for metric in AVERAGED)]
    return rows


def _categories(scores: Mapping) -> dict[str, Mapping]:
    return {name: part for name, part in scores.items() if name not in ("mean", "pooled", "per_question")}


def _head(title: str, scores: Mapping) -> list[Row]:
    rows: list[Row] = [
        (f"{title}, {scores['mode']} mode, {scores['questions']} questions, predictions {scores['predictions']}",)
    ]
    if scores["missing"]:
        rows.append((f"partial: {scores['missing']} questions have no prediction and count as wrong",))
    if scores.get("extra"):
        rows.append((f"{scores['extra']} predictions are for questions that are not in this file; ignored",))
    if scores.get("entailed_left_out"):
        rows.append((f"consistency leaves out {scores['entailed_left_out']} entailed questions without a prediction",))
    return rows


def _pope_title(category: str, part: Mapping) -> str:
    version = RANDOM_FILES.get(part["questions"]) if category == "random" else None
    version = f" ({version})" if version else ""
    missing = f"; partial: {part['missing']} have no answer and count as wrong" if part["missing"] else ""
    extra = f"; {part['extra']} answers are for other questions, ignored" if part["extra"] else ""
    return f"{category}: {part['questions']} questions{version}{missing}{extra}"
