"""GQA's metrics (Hudson and Manning 2019, arXiv 1902.09506), equal to the official eval.py of its download page.

Where only some questions are answered they are those of LLaVA's edit, eval_gqa.py. Nothing is normalised: an answer is
right if it equals the reference character for character. Left out is grounding, which needs attention maps.
"""

import json
import string
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bridge.scoring.gqa_form import Questions, balanced_questions, check_answers, check_choices
from bridge.scoring.joining import check_mode, few, index_predictions
from vlm.errors import UserError

# For questions whose detailed type holds "Common" (what do the two have in common?) these replace the choices file.
COMMON_CHOICES = ("color", "material", "shape")
# A reasoning step whose text contains one of these only phrases the question, so it is not counted.
UNCOUNTED_STEPS = ("exist", "query: name", "choose name")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

Choices = Mapping[str, Mapping] | None  # question id -> {"valid": [...], "plausible": [...]}


def process_as_llava(text: str) -> str:
    """A prediction as LLaVA converts it (convert_gqa_for_eval.py): periods at the end go, then lower case."""
    return text.rstrip(".").lower()


def score(
    questions: Mapping[str, Mapping],
    predictions: Any,
    choices: Choices = None,
    mode: str = "official",
    *,
    llava_processing: bool = False,
) -> dict:
    """Score parsed official files; nothing given is changed.

    questions: question id -> question object. All metrics are over the balanced ones; the others serve consistency.
    predictions: `[{"questionId": str, "prediction": str}]`; of several for one question the last counts, those for
        unknown questions are ignored and counted.
    choices: question id -> {"valid": [...], "plausible": [...]}; without them validity and plausibility are 0.
    mode: "official"; or "lmms", where case and ASCII punctuation are ignored in deciding what is correct, as in
        lmms-eval (which reports accuracy only).
    llava_processing: put the predictions through `process_as_llava` first.

    With a prediction for every question this is the official result. If some are missing: a balanced question
    without one is wrong; an entailed question that is not balanced (or not in `questions`) and has none is left out of
    consistency, and a question with no entailed one left is not in its mean.

    Returns percent rounded to two decimals as printed officially: accuracy, binary, open, validity, plausibility,
    consistency, and distribution (chi-square / 100, lower is better; 0 if every question's global group is null);
    per_structural_type, per_semantic_type, per_steps (name or number of steps -> accuracy); per_question (balanced
    id -> 0.0 or 100.0); counts (the number of questions behind each of the three breakdowns); mode, predictions
    ("as given" or "processed as LLaVA does"), questions (balanced ones), missing, extra, and entailed_left_out;
    not_measured, the names of the metrics that are 0 because nothing they are about was there; and notes, a line for
    each thing about the predictions that lowers the score for its form alone.
    Raises: UserError if no question is balanced, a record lacks what scoring reads or has a type that GQA does not, or
    choices are of another split.
    """
    check_mode(mode)
    questions = {str(question_id): question for question_id, question in questions.items()}
    balanced = balanced_questions(questions)
    answers = index_predictions(predictions, "questionId", "prediction")
    extra = len(answers.keys() - questions.keys())
    notes = _notes(balanced, answers, mode, llava_processing)
    if llava_processing:
        answers = {key: process_as_llava(text) if isinstance(text, str) else text for key, text in answers.items()}
    check_answers(questions, answers)
    if choices:
        check_choices(balanced, choices)
    correct = {
        key: key in answers and _is_right(answers[key], question["answer"], mode) for key, question in questions.items()
    }
    return {
        **_metrics(balanced, questions, answers, correct, choices),
        "mode": mode,
        "predictions": "processed as LLaVA does" if llava_processing else "as given",
        "questions": len(balanced),
        "missing": len(balanced.keys() - answers.keys()),
        "extra": extra,
        "notes": notes,
    }


def _notes(balanced: Questions, answers: dict[str, Any], mode: str, llava_processing: bool) -> list[str]:
    """What lowers the score although it may be right: answers that are no text, or differ in their form alone."""
    notes = []
    if no_text := [key for key in balanced if key in answers and not isinstance(answers[key], str)]:
        first = json.dumps(answers[min(no_text)])[:40]
        if not any(isinstance(text, str) for text in answers.values()):
            raise UserError(f"no prediction is text, the first is {first}: give the answers themselves")
        notes.append(
            f"{len(no_text)} of {len(balanced)} predictions are not text and count as wrong, the first is {first} "
            f"(question ids {few(no_text)})"
        )
    alike, mended = [], 0
    for key, question in balanced.items():
        given, answer = answers.get(key), question["answer"]
        if not isinstance(given, str):
            continue
        processed = process_as_llava(given)
        if _is_right(processed if llava_processing else given, answer, mode):
            continue
        if _bare(given) == _bare(answer):
            alike.append(key)
            mended += _is_right(processed, answer, mode)
    if alike:
        first = f"{answers[alike[0]]!r} for {balanced[alike[0]]['answer']!r}"
        notes.append(
            f"{len(alike)} of {len(balanced)} predictions count as wrong for case, punctuation or white space alone "
            f"({first}): GQA's rule compares as written" + _remedy(mended, len(alike), mode)
        )
    return notes


def _remedy(mended: int, alike: int, mode: str) -> str:
    ways = [f"--llava-processing counts {mended} of the {alike} as right"] if mended else []
    ways += ["--mode lmms ignores case and punctuation"] if mode == "official" else []
    return "; " + ", ".join(ways) if ways else ""


def _bare(text: str) -> str:
    """Text without case, ASCII punctuation and white space."""
    return "".join(text.lower().translate(WITHOUT_PUNCTUATION).split())


def _metrics(
    balanced: Questions, questions: Questions, answers: dict[str, Any], correct: dict[str, bool], choices: Choices
) -> dict:
    """The numbers of `score`; correct: of every question, balanced or not."""
    consistency, shares, left_out = _consistency(balanced, questions, answers, correct)
    breakdowns = _breakdowns(balanced, correct)
    # So "choose" and "compare" are binary, although their answers are not yes and no.
    binary = [key for key, question in balanced.items() if question["types"]["structural"] != "query"]
    measured = {
        "binary": bool(binary),
        "open": len(binary) < len(balanced),
        "validity": bool(choices),
        "plausibility": bool(choices),
        "consistency": shares > 0,
        "distribution": any(question["groups"]["global"] is not None for question in balanced.values()),
    }
    return {
        "accuracy": _percent([correct[key] for key in balanced]),
        "binary": _percent([correct[key] for key in binary]),
        "open": _percent([correct[key] for key in balanced.keys() - binary]),
        "validity": _percent(_belongs(balanced, answers, choices, "valid")),
        "plausibility": _percent(_belongs(balanced, answers, choices, "plausible")),
        "consistency": consistency,
        "distribution": round(_chi_square(balanced, answers) / 100, 2),
        **{f"per_{name}": {key: _percent(group) for key, group in part.items()} for name, part in breakdowns.items()},
        "per_question": {key: 100.0 if correct[key] else 0.0 for key in balanced},
        "counts": {name: {key: len(group) for key, group in part.items()} for name, part in breakdowns.items()},
        "entailed_left_out": left_out,
        "not_measured": [name for name, measured in measured.items() if not measured],
    }


def _is_right(prediction: Any, answer: str, mode: str) -> bool:
    """official: equal to the character; lmms: as its exact_match with ignore_case and ignore_punctuation."""
    if mode == "official" or not isinstance(prediction, str):
        return prediction == answer
    prediction = prediction.strip().lower().translate(WITHOUT_PUNCTUATION)  # only it is stripped, and before
    return prediction == answer.lower().translate(WITHOUT_PUNCTUATION)


def _steps(question: Mapping) -> int:
    texts = [f"{step['operation']}: {step['argument']}" for step in question["semantic"]]
    return sum(not any(part in text for part in UNCOUNTED_STEPS) for text in texts)


def _breakdowns(balanced: Questions, correct: dict[str, bool]) -> dict[str, dict[Any, list[bool]]]:
    """Correctness of the balanced questions in groups, in order of first occurrence."""
    breakdowns: dict[str, dict[Any, list[bool]]] = {"structural_type": {}, "semantic_type": {}, "steps": {}}
    for key, question in balanced.items():
        types = question["types"]
        for name, group in zip(breakdowns, (types["structural"], types["semantic"], _steps(question))):
            breakdowns[name].setdefault(group, []).append(correct[key])
    return breakdowns


def _belongs(balanced: Questions, answers: dict[str, Any], choices: Choices, kind: str) -> list[bool]:
    """For every balanced question, if its prediction is among the `kind` of choices ("valid" or "plausible")."""
    if not choices:
        return [False] * len(balanced)
    result = []
    for key, question in balanced.items():
        group = COMMON_CHOICES if "Common" in question["types"]["detailed"] else choices[key][kind]
        result.append(key in answers and answers[key] in group)
    return result


def _consistency(
    balanced: Questions, questions: Questions, answers: dict[str, Any], correct: dict[str, bool]
) -> tuple[float, int, int]:
    """How often what follows from a correct answer is answered correctly too.

    Returns the mean over correct balanced questions of the share of their entailed questions answered correctly, in
    percent; how many such questions there are; and how many entailed ones are left out because they are not answered.
    """
    shares, left_out = [], 0
    for key, question in balanced.items():
        entailed = [str(other) for other in question.get("entailed", ()) if str(other) != key]
        if not correct[key] or not entailed:
            continue
        known = [other for other in entailed if other in balanced or (other in questions and other in answers)]
        left_out += len(entailed) - len(known)
        if known:
            shares.append(_mean([correct[other] for other in known]))
    return _percent(shares), len(shares), left_out


def _chi_square(balanced: Questions, answers: dict[str, Any]) -> float:
    """Distance of the predicted from the true answers in each global group, weighted by the group's size.

    A predicted answer that is never true in its group adds nothing. 0 if no question has a group: there the official
    script divides by zero.
    """
    true: dict[str, Counter] = {}
    predicted: dict[str, Counter] = {}
    for key, question in balanced.items():
        group = question["groups"]["global"]
        if group is None:
            continue
        true.setdefault(group, Counter())[question["answer"]] += 1
        if isinstance(answers.get(key), str):
            predicted.setdefault(group, Counter())[answers[key]] += 1
    total, size = 0, 0
    for group, expected in true.items():
        observed = predicted.get(group, Counter())
        distance = sum(float(observed[answer] - count) ** 2 / count for answer, count in expected.items())
        total += distance * expected.total()
        size += expected.total()
    return float(total) / size if size else 0.0


def _mean(values: list) -> float:
    return float(sum(values)) / len(values) if values else 0.0


def _percent(values: list) -> float:
    return round(_mean(values) * 100, 2)
