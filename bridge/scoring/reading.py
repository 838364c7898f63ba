"""Files of predictions, as the official evaluators, LLaVA and others write them -> records under the official keys.

A file is a JSON list, JSON lines, or one JSON object from question id to answer. An id stands under questionId or
question_id, an answer under the benchmark's own key, or under LLaVA's "text".
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridge.scoring.joining import id_text, refuse_duplicates, refuse_strangers
from vlm.errors import UserError
from vlm.files import names_in_object, read_records

ID_KEYS = ("questionId", "question_id")
ANSWER_KEYS = ("prediction", "answer", "text")
QUESTION_KEYS = ("prompt", "question")


def read_objects(path: str | Path) -> list[Mapping]:
    """The records of a JSON list or of JSON lines; those of one object {question id: answer} are made.

    Raises: UserError if the file holds anything else.
    """
    if not Path(path).exists():
        raise UserError(f"{path} does not exist; give a file of predictions")
    found = read_records(path)
    records = found if isinstance(found, list) else [found]
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise UserError(f"{path}, record {number} is {str(record)[:60]}; needed is one object for each prediction")
    if len(records) == 1 and _key(records[0], (*ID_KEYS, *ANSWER_KEYS)) is None:
        _refuse_wrapped(records[0], path)
        if found is records[0]:  # a dict has kept the last of several answers; its file shows them all
            refuse_duplicates(names_in_object(path), str(path))
        return [{"question_id": key, "answer": answer} for key, answer in records[0].items()]
    return records


def _refuse_wrapped(found: Mapping, path: str | Path) -> None:
    """Raise a UserError if an object is no answers by id, but holds a list of predictions under a name."""
    lists = [
        name for name, value in found.items() if isinstance(value, list) and value and isinstance(value[0], Mapping)
    ]
    if lists:
        raise UserError(f"{path} holds its predictions under {lists[0]!r}: give that list as a file of its own")


def read_predictions(path: str, id_key: str, answer_key: str, questions: Iterable[str]) -> list[dict]:
    """Predictions with every key but `id_key` and `answer_key` taken off; each id is that of a question if it can be.

    Raises: UserError if the file is of another kind, answers a question twice, or none of `questions`.
    """
    records = read_objects(path)
    pairs = [_pair(record, answer_key, f"{path}, record {n}") for n, record in enumerate(records, start=1)]
    questions = set(questions)
    by_number = _by_number(questions) if any(not isinstance(key, str) for key, _ in pairs) else {}
    predictions = []
    for number, (given, answer) in enumerate(pairs, start=1):
        where = f"{path}, record {number}"
        key = id_text(given, where)
        if not isinstance(given, str) and key in by_number:
            if by_number[key] == "":
                raise UserError(f"{where}: several questions have the number {key}, behind zeros; give the id as text")
            key = by_number[key]
        predictions.append({id_key: key, answer_key: answer})
    refuse_duplicates((record[id_key] for record in predictions), path)
    refuse_strangers(questions, (record[id_key] for record in predictions), path)
    return predictions


def answer_of(record: Mapping, own_key: str, where: str) -> Any:
    """The answer of a record, under the benchmark's own key if it is there."""
    key = _key(record, (own_key, *ANSWER_KEYS))
    if key is None:
        raise UserError(f"{where} is {str(dict(record))[:80]}; needed is an answer under {own_key!r} or 'text'")
    return record[key]


def id_of(record: Mapping) -> Any:
    """The question id of a record, or None."""
    key = _key(record, ID_KEYS)
    return None if key is None else record[key]


def question_of(record: Mapping) -> str | None:
    """The question that a record of an answer repeats, or None. "text" is one only beside an answer.

    {"question_id": 1, "prompt": "Is it red?", "text": "Yes"}   -> Is it red?
    {"question_id": 1, "text": "Is it red?", "answer": "Yes"}   -> Is it red?
    {"question_id": 1, "text": "Yes"}                           -> None
    """
    key = _key(record, QUESTION_KEYS)
    if key is None and "text" in record and _key(record, ANSWER_KEYS) != "text":
        key = "text"
    return record[key] if key is not None and isinstance(record[key], str) else None


def _pair(record: Mapping, answer_key: str, where: str) -> tuple[Any, Any]:
    if _key(record, ID_KEYS) is None:
        raise UserError(
            f"{where} is {str(dict(record))[:80]}; needed is the question's id under {' or '.join(ID_KEYS)}"
        )
    return id_of(record), answer_of(record, answer_key, where)


def _key(record: Mapping, keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in record), None)


def _by_number(questions: Iterable[str]) -> dict[str, str]:
    """Ids without the zeros in front -> the id, or "" where two ids are the same number: GQA has "01827492"."""
    found: dict[str, str] = {}
    for key in questions:
        number = key.lstrip("0") or "0"
        found[number] = "" if number in found else key
    return found
