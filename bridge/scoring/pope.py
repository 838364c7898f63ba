"""POPE's scores, equal to the official evaluate.py (github.com/AoiDragon/POPE), Li et al. 2023, arXiv 2305.10355.

A division by zero, which it does not guard, gives 0.0 here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.scoring.joining import check_choice, check_mode, few
from vlm.errors import UserError

AVERAGED = ("accuracy", "precision", "recall", "f1", "yes_ratio")
# The number of questions tells which of POPE's files for its random category it is.
RANDOM_FILES = {2910: "POPE's file of August 2023", 3000: "POPE's file since autumn 2023"}
# The labels or answers of one category: in order, or by question id.
Texts = Sequence[str] | Mapping[str, str]
YES_WORD = re.compile(r"\byes\b", re.IGNORECASE)


def parse_yes_no(text: str) -> str:
    """The official reading of an answer: up to the first period, commas deleted, split at single spaces: "no" if a word
    is exactly "No", "no" or "not", else "yes".

    So "NO", "None", "isn't", "No!", "no\\n" and "" are yes, "There is no doubt" is no. Safe only for stripped answers
    of one word.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


def score(labels: Texts | Mapping[str, Texts], answers: Texts | Mapping[str, Texts], mode: str = "official") -> dict:
    """Score one category, or several.

    labels, answers: two sequences of texts joined by order, which must be equally long; or two mappings from question
        id, joined by it (missing answers are wrong, extra ones ignored, both counted); or two mappings from category to
        either, which goes to `score_categories`. A label is "yes" or "no", however it is capitalised.
    mode: "official"; or "lmms", as lmms-eval: an answer counts only if it is yes or no after lower() and strip(), a
        false negative only if it says no, and yes_ratio is that of the labels.

    Returns fractions, unrounded: accuracy, precision, recall, f1, yes_ratio; tp, fp, tn, fn; per_question (id, or
    position from 0 as a string -> 0.0 or 1.0); mode; questions, missing, extra; unparsed, the number of answers that
    say neither yes nor no (officially they count as yes); and notes, a line about these.
    Raises: UserError if labels and answers are of different kinds or lengths, or hold something else than text, or if
    a label is neither yes nor no.
    """
    check_mode(mode)
    if isinstance(labels, Mapping) and any(not isinstance(label, str) for label in labels.values()):
        return score_categories(labels, answers, mode)
    truth, given = _by_id(labels, answers)
    answered = {key: given[key] for key in truth if key in given}
    _check_strings("labels", truth)
    truth = {key: _truth(label, key) for key, label in truth.items()}
    _check_strings("answers", answered)
    predicted = {key: _reading(text, mode) for key, text in answered.items()}
    unparsed = [text for text in answered.values() if _says_neither(text, mode)]
    return {
        **_metrics(truth, predicted, mode),
        "per_question": {key: float(predicted.get(key) == label) for key, label in truth.items()},
        "mode": mode,
        "questions": len(truth),
        "missing": len(truth) - len(answered),
        "extra": len(given) - len(answered),
        "unparsed": len(unparsed),
        "notes": _notes(unparsed, len(answered), mode),
    }


def _notes(unparsed: list[str], answers: int, mode: str) -> list[str]:
    """unparsed: the answers that say neither yes nor no."""
    if not unparsed:
        return []
    verdict = "and count as yes, as POPE's rule has it" if mode == "official" else "and count as wrong"
    return [f"{len(unparsed)} of {answers} answers say neither yes nor no {verdict}; the first is {unparsed[0][:60]!r}"]


def score_categories(labels: Mapping[str, Texts], answers: Any, mode: str = "official") -> dict:
    """Category -> `score` of it, plus "mean": the plain mean over the categories of each of the five metrics.

    In lmms mode also "pooled": all categories as one set, which is what its `pope` task reports.
    Raises: UserError if there are no categories, or those of `answers` are others.
    """
    if not isinstance(answers, Mapping) or set(labels) != set(answers):
        given = sorted(answers) if isinstance(answers, Mapping) else type(answers).__name__
        raise UserError(f"labels are for the categories {sorted(labels)}, answers for {given}; give the same ones")
    if not labels:
        raise UserError("there are no POPE categories to score; give at least one")
    scores = {category: score(labels[category], answers[category], mode) for category in labels}
    mean = {name: sum(scores[category][name] for category in labels) / len(labels) for name in AVERAGED}
    if mode == "official":
        return {**scores, "mean": mean}
    all_labels: dict[str, str] = {}
    all_answers: dict[str, str] = {}
    for category in labels:
        own_labels, own_answers = _by_id(labels[category], answers[category])
        all_labels |= {f"{category}/{key}": text for key, text in own_labels.items()}
        all_answers |= {f"{category}/{key}": text for key, text in own_answers.items()}
    return {**scores, "mean": mean, "pooled": score(all_labels, all_answers, mode)}


def _by_id(labels: Any, answers: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Both as dicts with string keys: the ids, or the positions of sequences."""
    if isinstance(labels, Mapping) and isinstance(answers, Mapping):
        return {str(key): text for key, text in labels.items()}, {str(key): text for key, text in answers.items()}
    if any(isinstance(texts, (Mapping, str)) for texts in (labels, answers)):
        raise UserError(
            "labels and answers are of different kinds; give two sequences, or two mappings from question id"
        )
    if len(labels) != len(answers):
        raise UserError(
            f"{len(labels)} labels and {len(answers)} answers: without question ids they are joined by order and must "
            "be equally many; the random category has 2910 questions in POPE's file of August 2023 and 3000 since then"
        )
    return {str(i): text for i, text in enumerate(labels)}, {str(i): text for i, text in enumerate(answers)}


def _check_strings(what: str, texts: dict[str, str]) -> None:
    if wrong := [key for key, text in texts.items() if not isinstance(text, str)]:
        raise UserError(f"{len(wrong)} {what} are not strings (questions {few(wrong)}); give them as text")


def _truth(label: str, key: str) -> str:
    """The label in lower case. Officially all but "no" is positive, so that "No" would be yes."""
    label = label.strip().lower()
    check_choice(label, ("yes", "no"), f"question {key}: the label")
    return label


def _metrics(labels: dict[str, str], predicted: dict[str, str], mode: str) -> dict:
    """The five metrics and the four counts. Positive is yes."""
    if mode == "official":
        # A missing answer counts as whichever is wrong, and not at all in yes_ratio.
        wrong = {"yes": "no", "no": "yes"}
        pairs = [(truth, predicted.get(key, wrong[truth])) for key, truth in labels.items()]
        said = list(predicted.values())
    else:
        # An answer other than yes and no is wrong, but in none of the four counts; yes_ratio is that of the labels.
        pairs = [(truth, predicted.get(key, "")) for key, truth in labels.items()]
        said = [truth for truth, _ in pairs]
    cells = {"tp": ("yes", "yes"), "fp": ("no", "yes"), "tn": ("no", "no"), "fn": ("yes", "no")}  # (truth, answer)
    counts = {name: pairs.count(cell) for name, cell in cells.items()}
    accuracy = _ratio(counts["tp"] + counts["tn"], len(labels))
    precision = _ratio(counts["tp"], counts["tp"] + counts["fp"])
    recall = _ratio(counts["tp"], counts["tp"] + counts["fn"])
    f1 = _ratio(2 * precision * recall, precision + recall)
    yes_ratio = _ratio(said.count("yes"), said.count("yes") + said.count("no"))
    return dict(zip(AVERAGED, (accuracy, precision, recall, f1, yes_ratio))) | counts


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _reading(text: str, mode: str) -> str:
    return parse_yes_no(text) if mode == "official" else text.lower().strip()


def _says_neither(text: str, mode: str) -> bool:
    reading = _reading(text, mode)
    if mode == "official":  # where everything that is not no is read as yes
        return reading == "yes" and YES_WORD.search(text) is None
    return reading not in ("yes", "no")
