"""VQAv2 accuracy, equal to the official evaluator to the character.

That is vqaEval.py of March 2021 in github.com/GT-Vision-Lab/VQA: min(1, annotators who gave the answer / 3), averaged
over all ways to leave one annotator out (Antol et al. 2015, arXiv 1505.00468; Goyal et al. 2017, arXiv 1612.00837).

Its oddities are part of the score and are kept: answers are normalised only where the annotators disagree, the
punctuation rule looks at the whole input, a digit-comma-digit anywhere changes the rule for every character, at most 32
periods go, and an annotator is left out by comparing whole answer objects.
"""

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from bridge.scoring.joining import check_choice, check_mode, few, id_text, index_predictions
from vlm.errors import UserError

ANSWER_TYPES = ("yes/no", "number", "other")
CONFIDENCES = ("yes", "maybe", "no")
# In the official order. Not here, so left alone: ' : $ % & * # ~ ^ | and everything outside ASCII.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = ("a", "an", "the")
# The official map less six keys without effect: "let's" and "she's" map to themselves, and "Im", "Ive", "Id've" and
# "I'dve" can never match, because words are lower case by then (so "im" stays "im").
CONTRACTIONS: dict[str, str] = json.loads(
    resources.files("bridge.scoring").joinpath("vqa_contractions.json").read_text(encoding="utf-8")
)
PERIOD = re.compile(r"\.(?!\d)")
# The original passes re.UNICODE where re.sub takes `count`, and re.UNICODE is 32.
PERIODS_DELETED = 32
OFFICIAL_COMMA = re.compile(r"\d,\d")
# The same rule in LLaVA's and lmms-eval's processor: there a run of commas between digits fires it too.
M4C_COMMA = re.compile(r"(?<=\d),+(?=\d)")


def normalise_answer(text: str) -> str:
    """`text` after every step of the official normalisation: `"The U.S., two-day"` -> `"us 2 day"`.

    `score` applies it to both sides of a question only if its annotators disagree.
    """
    return _normalise(text, OFFICIAL_COMMA)


def process_as_llava(text: str) -> str:
    """A prediction as LLaVA submits it (m4c_evaluator.py, EvalAIAnswerProcessor).

    Lower case, commas and question marks deleted, possessives split off, then the official steps.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _normalise(text, M4C_COMMA)


def score(
    questions: Any,
    annotations: Any,
    predictions: Any,
    mode: str = "official",
    *,
    llava_processing: bool = False,
    allow_missing: bool = False,
    by_position: bool = False,
) -> dict:
    """Score parsed official files; nothing given is changed.

    questions: the questions object. The official evaluator reads nothing from it, nor does this; it may be None.
    annotations: the annotations object, or its list under "annotations".
    predictions: `[{"question_id": int or str, "answer": str}]`; of several for one question the last counts.
    mode: "official"; or "lmms", as lmms-eval's vqav2_val: always normalised, other comma rule.
    llava_processing: put the predictions through `process_as_llava` first.
    allow_missing: count unanswered questions as wrong; without it they are an error, as officially.
    by_position: leave each annotator out by the place in the list. Officially it is by comparing whole answer objects,
        so that equal ones, as without answer_id, leave each other out. The same where all answer_ids differ.

    Returns overall, per_answer_type, per_question_type and per_question (id -> score) in percent, rounded to two
    decimals as officially; also mode, predictions ("as given" or "processed as LLaVA does"), questions and missing
    (counts); and notes: a line for each thing about votes or predictions that lowers the score for its form alone. In
    lmms mode also exact_match, its unrounded fraction.
    Raises: UserError if predictions and annotations name different questions, an answer is not a string, or an
    answer_type or answer_confidence is none of VQAv2's.
    """
    check_mode(mode)
    annotated = _annotations_by_id(annotations)
    answers = index_predictions(predictions, "question_id", "answer")
    missing = _check_ids(set(annotated), set(answers), allow_missing)
    if bad := [key for key, answer in answers.items() if not isinstance(answer, str)]:
        raise UserError(f"{len(bad)} predicted answers are not strings (question ids {few(bad)}); write them as text")
    given = {key: process_as_llava(answer) for key, answer in answers.items()} if llava_processing else answers
    question_score = _official_question_score if mode == "official" else _lmms_question_score
    votes = {
        key: _numbered(record["answers"]) if by_position else record["answers"] for key, record in annotated.items()
    }
    values = dict.fromkeys(annotated, 0.0)
    for key in annotated.keys() - missing:
        values[key] = question_score(votes[key], given[key])
    scores = {
        "overall": _percent(list(values.values())),
        "per_answer_type": _per_type(annotated, values, "answer_type"),
        "per_question_type": _per_type(annotated, values, "question_type"),
        "per_question": {key: round(100 * value, 2) for key, value in values.items()},
        "mode": mode,
        "predictions": "processed as LLaVA does" if llava_processing else "as given",
        "questions": len(values),
        "missing": len(missing),
        "notes": [
            *_notes_on_votes(votes, values, given, question_score),
            *([] if llava_processing else _notes_on_form(votes, values, answers, question_score)),
        ],
    }
    if mode == "lmms":
        scores["exact_match"] = sum(values.values()) / len(values)
    return scores


def _numbered(votes: Sequence[Mapping]) -> list[dict]:
    """Votes that all differ, by their places."""
    return [{**vote, "answer_id": place} for place, vote in enumerate(votes, start=1)]


def _notes_on_votes(
    votes: Mapping[str, Sequence[Mapping]], values: dict[str, float], given: dict[str, str], question_score: Callable
) -> list[str]:
    """Questions that lose points because votes are equal objects, or because there are too few of them."""
    notes = []
    by_place = {}
    for key, own in votes.items():
        if key in given and len({vote.get("answer_id", "") for vote in own}) < len(own):
            by_place[key] = question_score(_numbered(own), given[key])
    if lowered := [key for key, value in by_place.items() if value > values[key]]:
        notes.append(
            f"{len(lowered)} of {len(votes)} questions lose points because equal votes without an answer_id of their "
            f"own leave each other out, as the official rule has it (question ids {few(lowered)}); --by-position "
            f"counts each vote: overall {_percent(list({**values, **by_place}.values())):.2f}"
        )
    if sparse := [key for key, own in votes.items() if len(own) < 4]:
        notes.append(
            f"{len(sparse)} of {len(votes)} questions have fewer than 4 votes (question ids {few(sparse)}): the rule "
            "gives a vote less than full points then, and none to a single one"
        )
    return notes


def _notes_on_form(
    votes: Mapping[str, Sequence[Mapping]], values: dict[str, float], answers: dict[str, str], question_score: Callable
) -> list[str]:
    """Questions that gain points if their prediction is processed as LLaVA does."""
    gains, all_processed = [], dict(values)
    for key, own in votes.items():
        processed = process_as_llava(answers[key]) if key in answers else ""
        if key in answers and processed != answers[key]:
            all_processed[key] = question_score(own, processed)  # some lose by it
            if processed and all_processed[key] > values[key]:
                gains.append(key)
    if not gains:
        return []
    first = min(gains)
    return [
        f"{len(gains)} of {len(votes)} predictions lose points for case or punctuation alone ({answers[first]!r}, "
        f"question id {first}): the official rule compares as written where all annotators agree; --llava-processing "
        f"gives overall {_percent(list(all_processed.values())):.2f}"
    ]


def _annotations_by_id(annotations: Any) -> dict[str, Mapping]:
    """Annotation records by string question id, in file order."""
    records = annotations.get("annotations") if isinstance(annotations, Mapping) else annotations
    if not isinstance(records, Sequence) or not records:
        raise UserError('annotations hold no questions; needed is the official object with a list under "annotations"')
    needed = ("question_id", "question_type", "answer_type", "answers")
    for number, record in enumerate(records, start=1):
        if absent := [key for key in needed if not isinstance(record, Mapping) or key not in record]:
            raise UserError(f"annotation {number} has no {absent[0]!r}; needed are {', '.join(needed)}")
        answers = record["answers"]
        if not isinstance(answers, list) or not all(
            isinstance(answer, Mapping) and isinstance(answer.get("answer"), str) for answer in answers
        ):
            raise UserError(f'annotation {number}: its answers are not objects with a text under "answer"')
        _check_closed_sets(record, f"annotation {number} (question {record['question_id']})")
    annotated = {
        id_text(record["question_id"], f"annotation {number}"): record for number, record in enumerate(records, start=1)
    }
    if len(annotated) != len(records):
        raise UserError(f"{len(records)} annotations name only {len(annotated)} questions; each may occur once")
    if empty := [key for key, record in annotated.items() if not record["answers"]]:
        raise UserError(f"{len(empty)} annotations have no answers (question ids {few(empty)}); they cannot be scored")
    return annotated


def _check_closed_sets(record: Mapping, where: str) -> None:
    check_choice(record["answer_type"], ANSWER_TYPES, f"{where}: answer_type")
    if not isinstance(record["question_type"], str):
        raise UserError(f"{where}: question_type is {record['question_type']!r}; needed is text")
    for vote in record["answers"]:
        if "answer_confidence" in vote:
            check_choice(vote["answer_confidence"], CONFIDENCES, f"{where}: an answer_confidence")


def _check_ids(annotated: set[str], answered: set[str], allow_missing: bool) -> set[str]:
    """The unanswered ids; a UserError if the official loader's assertion would fail."""
    missing, extra = annotated - answered, answered - annotated
    if extra or (missing and not allow_missing):
        parts = [f"{len(annotated)} questions and {len(answered)} predictions do not match"]
        if missing:
            parts.append(f"{len(missing)} questions have no prediction ({few(missing)})")
        if extra:
            parts.append(f"{len(extra)} predictions are for other questions ({few(extra)})")
        raise UserError("; ".join(parts) + ": give predictions for exactly the annotated questions")
    return missing


def _official_question_score(answers: Sequence[Mapping], prediction: str) -> float:
    """Mean over the annotators of min(1, matches among the others / 3), 0 to 1."""
    given = [{**answer, "answer": _strip(answer["answer"])} for answer in answers]
    prediction = _strip(prediction)
    # If all agree the official code compares as written, case included: "Yes" is wrong if all ten say "yes".
    if len({answer["answer"] for answer in given}) > 1:
        given = [{**answer, "answer": normalise_answer(answer["answer"])} for answer in given]
        prediction = normalise_answer(prediction)
    accuracies = _leave_one_out(given, prediction)
    return float(sum(accuracies)) / len(accuracies)


def _lmms_question_score(answers: Sequence[Mapping], prediction: str) -> float:
    given = [{**answer, "answer": _normalise(answer["answer"], M4C_COMMA)} for answer in answers]
    return statistics.mean(_leave_one_out(given, _normalise(prediction, M4C_COMMA)))


def _leave_one_out(answers: list[dict], prediction: str) -> list[float]:
    """One accuracy for each annotator, by the answers of the others.

    Officially the others are those whose whole object differs from this one's. So without answer_id equal answers
    remove each other: 6 yes and 4 no give the prediction "yes" 0.4.
    """
    matching = [answer for answer in answers if answer["answer"] == prediction]
    return [min(1, float(sum(match != left_out for match in matching)) / 3) for left_out in answers]


def _per_type(annotated: dict[str, Mapping], values: dict[str, float], key: str) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for question_id, annotation in annotated.items():
        groups.setdefault(annotation[key], []).append(values[question_id])
    return {name: _percent(group) for name, group in groups.items()}


def _percent(values: list[float]) -> float:
    return round(100 * float(sum(values)) / len(values), 2)


def _strip(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 18)
def _normalise(text: str, comma: re.Pattern) -> str:
    words = [NUMBER_WORDS.get(word, word) for word in _punctuation(_strip(text), comma).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _punctuation(text: str, comma: re.Pattern) -> str:
    """Every mark becomes one space, or nothing.

    Nothing if that mark stands beside a space anywhere in `text`, and nothing for all marks if a comma stands between
    digits anywhere.
    """
    number = comma.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        result = result.replace(mark, "" if number or beside_space else " ")
    return PERIOD.sub("", result, count=PERIODS_DELETED)
