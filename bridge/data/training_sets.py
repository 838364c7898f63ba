"""The sets that a bridge trains on: official files or hub tables -> rows -> `Stored` columns.

A record that is malformed does not stop the run. It is left out, and the run lists it in RUN/quarantine.jsonl.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bridge.data import hub, json_stream
from bridge.data.image_folder import CocoFolder, ImageFolder
from bridge.data.official import folder_of, gqa_files, gqa_split, vqav2_subtype
from bridge.data.stored import Source, Stored, StoredRecord, stored
from vlm.errors import UserError


def gqa(directory: str | Path, splits: str) -> list[Stored]:
    """GQA's questions of one split or of several, as train+val.

    Raises: UserError if a file or folder is missing, is of another kind, or cannot be parsed.
    """
    return [stored(_gqa(directory, gqa_split(split))) for split in splits.split("+")]


def vqav2(directory: str | Path, splits: str) -> list[Stored]:
    """VQAv2's questions of one split or of several, as train2014+val2014. Raises: as `gqa`."""
    return [stored(_vqav2(directory, split)) for split in splits.split("+")]


def _gqa(directory: str | Path, name: str) -> Source:
    if root := hub.find_root(directory, [f"{name}_instructions/*", f"{name}_images/*"]):
        table = hub.gqa(root, name)
        return Source(
            f"{root}/{name}_instructions", table.files, lambda: map(_gqa_row, table.questions()), table.images
        )
    folder = folder_of(directory, "GQA")
    file = folder / f"{name}_questions.json"
    parts = gqa_files(file)
    if not parts:
        raise UserError(f"{file} is missing: download questions1.2.zip from cs.stanford.edu/people/dorarad/gqa")

    def rows() -> Iterator[StoredRecord]:
        for part in parts:
            yield from map(_gqa_row, json_stream.members(part))

    return Source(str(file), parts, rows, lambda: ImageFolder(folder / "images", links=True))


def _gqa_row(member: tuple[str, Any]) -> StoredRecord:
    key, record = member
    if not isinstance(record, dict):
        return StoredRecord(key, problem="malformed record")
    image, question, answer = (record.get(name) for name in ("imageId", "question", "answer"))
    if not isinstance(image, (str, int)) or isinstance(image, bool) or not isinstance(question, str):
        return StoredRecord(key, problem="malformed record")
    if not isinstance(answer, str):
        return StoredRecord(key, problem="no answer")
    return StoredRecord(key, f"{image}.jpg", question, answer)


def _vqav2(directory: str | Path, split: str) -> Source:
    subtype = vqav2_subtype(split)
    if root := hub.find_root(directory, [f"*/{hub.VQAV2_SPLITS.get(split, split)}-*"]):
        table = hub.vqav2(root, split, subtype)

        def of_table() -> Iterable[StoredRecord]:
            return _vqav2_rows((record for _, record in table.questions()), None, subtype)

        return Source(f"{root}/{split}", table.files, of_table, table.images)
    folder = folder_of(directory, "VQAv2")
    file = folder / f"v2_OpenEnded_mscoco_{split}_questions.json"
    annotations = folder / f"v2_mscoco_{split}_annotations.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: download the v2 questions from visualqa.org/download.html")
    files = [file, annotations] if annotations.is_file() else [file]

    def official() -> Iterable[StoredRecord]:
        answers = _annotations(annotations) if annotations.is_file() else {}
        return _vqav2_rows((record for _, record in _listed(file, "questions")), answers, subtype)

    return Source(str(file), files, official, lambda: CocoFolder(folder, subtype))


def _annotations(file: Path) -> dict[str, tuple[str, tuple[str, ...]] | None]:
    """Question id -> the most common answer and all votes; None if the annotation is malformed."""
    found = {}
    for _, record in _listed(file, "annotations"):
        if isinstance(record, dict):
            found[str(record.get("question_id"))] = _answers(record)
    return found


def _answers(record: dict) -> tuple[str, tuple[str, ...]] | None:
    answer, votes = record.get("multiple_choice_answer"), record.get("answers")
    if not isinstance(answer, str) or not isinstance(votes, list):
        return None
    texts = [vote.get("answer") for vote in votes if isinstance(vote, dict)]
    strings = tuple(sys.intern(text) for text in texts if isinstance(text, str))
    return (sys.intern(answer), strings) if len(strings) == len(votes) else None


def _vqav2_rows(records: Iterable[Any], answers: dict | None, subtype: str) -> Iterator[StoredRecord]:
    """answers: by question id; None if each record holds its own."""
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("question_id"), (int, str)):
            yield StoredRecord("", problem="malformed record")
            continue
        key, image, question = str(record["question_id"]), record.get("image_id"), record.get("question")
        if not str(image).isdecimal() or not isinstance(question, str):
            yield StoredRecord(key, problem="malformed record")
            continue
        answered = bool(record.get("answers")) if answers is None else key in answers
        if not answered:
            yield StoredRecord(key, problem="no answer")
            continue
        known = _answers(record) if answers is None else answers[key]
        if known is None:
            yield StoredRecord(key, problem="malformed record")
        else:
            yield StoredRecord(key, f"COCO_{subtype}_{int(str(image)):012d}.jpg", question, known[0], known[1])


def _listed(file: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """The elements of an official VQAv2 file's list. Raises: UserError if there is no such list."""
    there = False
    for key, value in json_stream.members(file, inside=kind):
        if key == kind:
            there = True
            yield key, value
    if not there:
        raise UserError(f"{file} is not an official VQAv2 file: it needs a list under {kind!r} with records")
