"""An append-only file of answers that survives a kill and refuses to mix two models."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from vlm.errors import UserError, writing
from vlm.files import read_json, read_jsonl, write_json


class Predictions:
    """`FILE.jsonl`, one answered question a line, and beside it `FILE.origin.json`: what the answers depend on.

    Opening drops a last line torn by a kill and gives the answers so far in `.answers`. UserError where the file's
    origin differs from `origin` or an answered question has changed.
    """

    def __init__(self, path: str | Path, origin: dict, questions: dict[str, str]):
        self.path = Path(path)
        self.answers: dict[str, str] = {}
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        origin_file = self.path.with_suffix(".origin.json")
        if self.path.exists():
            self._check_origin(read_json(origin_file) if origin_file.exists() else {}, origin)
            _drop_torn_line(self.path)
            for record in read_jsonl(self.path):
                self._take(record, questions)
        else:
            write_json(origin_file, origin)

    def append(self, records: Iterable[dict]) -> None:
        """Add `{"question_id", "question", "answer", ...}` lines; on the disk when this returns."""
        records = list(records)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.answers |= {record["question_id"]: record["answer"] for record in records}

    def _check_origin(self, found: dict, expected: dict) -> None:
        differ = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        if differ:
            raise UserError(
                f"{self.path} holds answers of another run (it differs in: {', '.join(differ)}); "
                "choose another --out, or give --overwrite to discard them"
            )

    def _take(self, record: dict, questions: dict[str, str]) -> None:
        try:
            key, question, answer = record["question_id"], record["question"], record["answer"]
        except (KeyError, TypeError):
            raise UserError(f"{self.path} holds a line that is no prediction: {str(record)[:80]}") from None
        if key not in questions:  # from a run over more images; it stays in the file and out of the score
            return
        if questions[key] != question:
            raise UserError(
                f"{self.path} answers another question {key} ({question!r}, not {questions[key]!r}); "
                "choose another --out, or give --overwrite to discard it"
            )
        self.answers[key] = answer


def discard(path: str | Path) -> None:
    """Remove a predictions file and its origin."""
    Path(path).unlink(missing_ok=True)
    Path(path).with_suffix(".origin.json").unlink(missing_ok=True)


def _drop_torn_line(path: Path) -> None:
    with open(path, "r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
