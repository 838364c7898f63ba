"""Predictions and questions meet by question id; an id is a string everywhere, so "01827492" is not "1827492"."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm.errors import UserError

MODES = ("official", "lmms")  # scores of the official evaluators, or of lmms-eval


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise UserError(f"mode {mode!r} is unknown; use official or lmms")


def few(ids: Iterable[str]) -> str:
    """The first three ids of a collection in sorted order, for an error message: `"1, 2, 3, ..."`."""
    ordered = sorted(ids)
    return ", ".join(ordered[:3]) + (", ..." if len(ordered) > 3 else "")


def index_predictions(predictions: Any, id_key: str, answer_key: str) -> dict[str, Any]:
    """Official predictions `[{id_key: ..., answer_key: ...}]`, or a mapping id -> answer, as a dict by string id.

    The last of several predictions for one question counts, as in the official evaluators.
    """
    if isinstance(predictions, Mapping):
        return {str(question_id): answer for question_id, answer in predictions.items()}
    check_records(predictions, id_key, answer_key)
    return {str(record[id_key]): record[answer_key] for record in predictions}


def check_records(predictions: Any, id_key: str, answer_key: str) -> None:
    """Raise a UserError unless `predictions` is a list of objects that have both keys."""
    if not isinstance(predictions, Sequence) or isinstance(predictions, str):
        raise UserError(f"predictions are not a list; needed is a list of objects with {id_key!r} and {answer_key!r}")
    for number, record in enumerate(predictions, start=1):
        if not isinstance(record, Mapping) or id_key not in record or answer_key not in record:
            raise UserError(
                f"prediction {number} is {str(record)[:80]}; needed is an object with {id_key!r} and {answer_key!r}"
            )


def refuse_strangers(questions: Iterable[Any], predictions: Iterable[Any], where: str) -> None:
    """Raise a UserError if no prediction is for one of the questions: they are of another split, not all wrong."""
    asked, answered = set(map(str, questions)), set(map(str, predictions))
    if not asked & answered:
        raise UserError(
            f"{where}: none of the {len(answered)} predictions ({few(answered)}) is for one of the {len(asked)} "
            f"questions ({few(asked)}); give the questions that were asked"
        )


def refuse_duplicates(ids: Iterable[Any], where: str) -> None:
    """Raise a UserError that names a few of the ids that occur more than once, if there are any."""
    repeated = [question_id for question_id, count in Counter(map(str, ids)).items() if count > 1]
    if repeated:
        raise UserError(
            f"{where} answers {len(repeated)} questions more than once (question ids {few(repeated)}); "
            "keep one prediction for each question"
        )
