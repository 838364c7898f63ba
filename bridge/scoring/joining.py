"""Predictions and questions meet by question id; an id is a string everywhere, so "01827492" is not "1827492".

An id that is a number stands for the string of its digits: 262148000, or 262148000.0 as tables write it.
"""

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
    return {
        id_text(record[id_key], f"prediction {number}"): record[answer_key]
        for number, record in enumerate(predictions, start=1)
    }


def id_text(question_id: Any, where: str) -> str:
    """A question id as a string; a UserError that begins with `where` if it is neither text nor a whole number."""
    if isinstance(question_id, float) and question_id.is_integer():
        question_id = int(question_id)
    if isinstance(question_id, bool) or not isinstance(question_id, (int, str)):
        raise UserError(f"{where}: the question id is {question_id!r}; needed is text or a whole number")
    return str(question_id)


def check_records(predictions: Any, id_key: str, answer_key: str) -> None:
    """Raise a UserError unless `predictions` is a list of objects that have both keys."""
    if not isinstance(predictions, Sequence) or isinstance(predictions, str):
        raise UserError(f"predictions are not a list; needed is a list of objects with {id_key!r} and {answer_key!r}")
    for number, record in enumerate(predictions, start=1):
        if not isinstance(record, Mapping) or id_key not in record or answer_key not in record:
            raise UserError(
                f"prediction {number} is {str(record)[:80]}; needed is an object with {id_key!r} and {answer_key!r}"
            )


def check_choice(value: Any, choices: Sequence[str], what: str) -> None:
    """Raise a UserError if `value` is not one of a closed set. what: place and field, for the message."""
    if value not in choices:
        raise UserError(f"{what} is {value!r}; it is one of {', '.join(choices)}: correct it")


def refuse_strangers(questions: Iterable[Any], predictions: Iterable[Any], where: str) -> None:
    """Raise a UserError if no prediction is for one of the questions: they are of another split, not all wrong."""
    asked, answered = set(map(str, questions)), set(map(str, predictions))
    if not answered:
        raise UserError(f"{where} holds no predictions; give a file with an answer to each question")
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
