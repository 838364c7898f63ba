"""Append-only files of answers that survive a kill and refuse to mix two models."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from bridge.evaluation.benchmarks import Benchmark
from bridge.evaluation.settings import EvaluateConfig
from vlm.errors import UserError, writing
from vlm.files import file_sha256, read_json, read_jsonl, write_json


class Predictions:
    """`FILE.jsonl`, one answered question a line, and beside it `FILE.origin.json`: what the answers depend on.

    Opening drops a last line torn by a kill and gives the answers so far in `.answers`, question id -> answer.
    """

    def __init__(self, path: str | Path, origin: dict, questions: dict[str, str]):
        """questions: id -> text. Raises: UserError if the file's origin or an answered question differs."""
        self.path = Path(path)
        self.answers: dict[str, str] = {}
        origin_file = self.path.with_suffix(".origin.json")
        if not self.path.exists():
            write_json(origin_file, origin)
            return
        found = read_json(origin_file) if origin_file.exists() else {}
        if differ := sorted(key for key in found.keys() | origin.keys() if found.get(key) != origin.get(key)):
            raise UserError(
                f"{self.path} holds answers of another run (it differs in: {', '.join(differ)}); "
                "choose another --out, or give --overwrite to discard them"
            )
        with open(self.path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # a line that a kill has torn goes
        for record in read_jsonl(self.path):
            self._take(record, questions)

    def append(self, records: Sequence[dict]) -> None:
        """Add `{"question_id", "question", "answer", ...}` lines; on the disk when this returns."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.answers |= {record["question_id"]: record["answer"] for record in records}

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


def answers_origin(config: EvaluateConfig, folder: Path, dtype: str) -> dict:
    """What answers depend on beside the question, for `Predictions`. folder: of the VLM; dtype: as "float32"."""
    digest = hashlib.sha256()  # over names and contents of the saved VLM's files
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    # `batch_questions` too: which questions are decoded together rounds them differently.
    settings = {name: getattr(config, name) for name in ("max_new_tokens", "batch_questions", "sees")}
    origin = {"model": digest.hexdigest(), "dtype": dtype, **settings}
    if config.oracle:
        origin["captions"] = file_sha256(config.oracle)
    if config.load_in:
        origin["load_in"] = config.load_in
    return origin


def open_predictions(
    out: Path, benchmarks: Sequence[Benchmark], origin: dict, anew: bool = False
) -> dict[str, Predictions]:
    """Each benchmark's answers so far, by its name; with `anew` they are discarded."""
    opened = {}
    for benchmark in benchmarks:
        path = out / "predictions" / f"{benchmark.name}.jsonl"
        if anew:
            discard(path)
        own = {**origin, "split": benchmark.split}
        if origin["sees"] == "other images":  # which one is shown depends on all of them
            names = "\n".join(image.name for image in benchmark.images)
            own["shown"] = hashlib.sha256(names.encode()).hexdigest()
        questions = {example.question_id: example.question for example in benchmark.examples}
        opened[benchmark.name] = Predictions(path, own, questions)
    return opened
