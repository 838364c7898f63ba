"""Append-only files of answers that survive a kill and refuse to mix two models."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridge.data.pictures import Picture, picture_size
from bridge.evaluation.benchmarks import Benchmark
from bridge.evaluation.settings import EvaluateConfig
from bridge.evaluation.team import Team
from vlm.errors import UserError
from vlm.files import append, drop_torn_line, file_sha256, read_json, read_jsonl, write_file, write_json
from vlm.llava.digest import content_digest


class Predictions:
    """`FILE.jsonl`, one answered question a line, and beside it `FILE.origin.json`: what the answers depend on.

    Opening drops a last line torn by a kill and gives the answers so far in `.answers`, question id -> answer.
    """

    def __init__(
        self, path: str | Path, origin: dict, questions: dict[str, str], images: Mapping[str, Picture] | None = None
    ):
        """questions: id -> text. images: id -> what the question is about.

        Raises: UserError if the file's origin, an answered question or its image differs.
        """
        self.path, self._images = Path(path), images or {}
        self.answers: dict[str, str] = {}
        self._order = list(questions)
        origin_file = self.path.with_suffix(".origin.json")
        if not self.path.exists():
            write_json(origin_file, origin)
            return
        found = read_json(origin_file) if origin_file.exists() else {}
        found = found if isinstance(found, dict) else {}
        if differ := sorted(key for key in found.keys() | origin.keys() if found.get(key) != origin.get(key)):
            raise UserError(
                f"{self.path} holds answers of another run (it differs in: {', '.join(differ)}); "
                "choose another --out, or give --overwrite to discard them"
            )
        drop_torn_line(self.path)
        for record in read_jsonl(self.path):
            self._take(record, questions)

    def append(self, records: Sequence[dict]) -> None:
        """Add `{"question_id", "question", "answer", ...}` lines; on the disk when this returns."""
        append(self.path, records, flush=True)
        self.answers |= {record["question_id"]: record["answer"] for record in records}

    def absorb(self, other: Path) -> int:
        """Append the lines of another whole file of answers that this one lacks. Returns how many it holds in all."""
        held = {record["question_id"] for record in read_jsonl(self.path)} if self.path.exists() else set()
        records = list(read_jsonl(other))
        self.append([record for record in records if record["question_id"] not in held])
        return len(records)

    def sort(self) -> None:
        """Put the lines into the order of the questions, one for each; those of other questions stay, at the end."""
        if not self.path.exists():
            return
        last = {record["question_id"]: record for record in read_jsonl(self.path)}
        ordered = {key: last[key] for key in self._order if key in last} | last
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ordered.values())
        write_file(self.path, lines)

    def _take(self, record: dict, questions: dict[str, str]) -> None:
        try:
            texts = record["question_id"], record["question"], record["answer"]
        except (KeyError, TypeError):
            texts = ()
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.path} holds a line that is no prediction: {str(record)[:80]}")
        key, question, answer = texts
        if key not in questions:  # from a run over more images; it stays in the file and out of the score
            return
        other = "choose another --out, or give --overwrite to discard it"
        if questions[key] != question:
            raise UserError(
                f"{self.path} answers another question {key} ({question!r}, not {questions[key]!r}); {other}"
            )
        image = self._images.get(key)
        if image is not None and not _shows(record, image):
            raise UserError(f"{self.path} answers question {key} about another image than {image}; {other}")
        self.answers[key] = answer


def _shows(record: dict, image: Picture) -> bool:
    """Whether a line is about this image: of its name and, where both are known, of as many bytes."""
    size, recorded = picture_size(image), record.get("image_bytes")
    return record.get("image", image.name) == image.name and (size is None or recorded is None or recorded == size)


def discard(path: str | Path) -> None:
    """Remove a predictions file and its origin."""
    Path(path).unlink(missing_ok=True)
    Path(path).with_suffix(".origin.json").unlink(missing_ok=True)


def answers_origin(config: EvaluateConfig, folder: Path, dtype: str) -> dict:
    """What answers depend on beside the question, for `Predictions`. folder: of the VLM; dtype: as "float32"."""
    # `batch_questions` too: which questions are decoded together rounds them differently.
    settings = {name: getattr(config, name) for name in ("max_new_tokens", "batch_questions", "sees")}
    origin = {"model": content_digest(folder), "dtype": dtype, **settings}
    if config.oracle:
        origin["captions"] = file_sha256(config.oracle)
    if config.load_in:
        origin["load_in"] = config.load_in
    return origin


class TeamPredictions:
    """One benchmark's answers, `OUT/predictions/NAME.jsonl`, given by one process or by several.

    One process appends to the file itself. Each of several appends to its own `NAME.rankR.jsonl`; rank 0 takes these
    into the one file when all are done, or when the next attempt begins after a kill, however many processes it has.
    `.answers` are on every process those that all had when it was opened, and its own since then.
    """

    def __init__(
        self,
        path: Path,
        origin: dict,
        questions: dict[str, str],
        team: Team,
        anew: bool = False,
        images: Mapping[str, Picture] | None = None,
    ):
        """Collective. anew: discard what there is. Raises: UserError if there are answers of another origin."""
        self.path, self._team, self._images = path, team, images
        self._merged = team.main(lambda: self._open(origin, questions, anew))
        self._own = self._merged
        if team.size > 1:
            self._own = team.all(lambda: Predictions(self._rank_file(team.rank), origin, questions))
        self.answers = dict(self._merged.answers)

    def append(self, records: Sequence[dict]) -> None:
        self._own.append(records)
        self.answers |= {record["question_id"]: record["answer"] for record in records}

    def finish(self) -> None:
        """Take the files of all processes into the one, and put it into the questions' order; collective.

        After this `.answers` on rank 0 are all answers.
        """
        counts = self._team.gather(len(self._own.answers))
        self._team.main(lambda: self._merge(counts))
        self.answers = dict(self._merged.answers)

    def _rank_file(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.rank{rank}.jsonl")

    def _open(self, origin: dict, questions: dict[str, str], anew: bool) -> Predictions:
        rank_files = sorted(self.path.parent.glob(f"{self.path.stem}.rank*.jsonl"))
        if anew:
            for path in (self.path, *rank_files):
                discard(path)
        merged = Predictions(self.path, origin, questions, self._images)
        for file in [] if anew else rank_files:  # of an attempt that was killed
            Predictions(file, origin, questions, self._images)  # checks them
            merged.absorb(file)
            discard(file)
        return Predictions(self.path, origin, questions, self._images) if rank_files else merged

    def _merge(self, counts: list[int]) -> None:
        """counts: how many answers each process has written to its file."""
        for rank, count in enumerate(counts if self._team.size > 1 else []):
            file = self._rank_file(rank)
            if count and (not file.exists() or self._merged.absorb(file) != count):
                raise UserError(
                    f"{file} does not show the {count} answers that process {rank} wrote there: give an --out on a "
                    "file system that all processes share"
                )
        for rank in range(self._team.size) if self._team.size > 1 else ():
            discard(self._rank_file(rank))
        self._merged.sort()


def open_predictions(
    out: Path, benchmarks: Sequence[Benchmark], origin: dict, team: Team, anew: bool = False
) -> dict[str, TeamPredictions]:
    """Each benchmark's answers so far, by its name; with `anew` they are discarded. Collective."""
    opened = {}
    for benchmark in benchmarks:
        own = {**origin, "split": benchmark.split}
        if origin["sees"] == "other images":  # which one is shown depends on all of them
            names = "\n".join(image.name for image in benchmark.images)
            own["shown"] = hashlib.sha256(names.encode()).hexdigest()
        questions = {example.question_id: example.question for example in benchmark.examples}
        images = {example.question_id: example.image for example in benchmark.examples}
        path = out / "predictions" / f"{benchmark.name}.jsonl"
        opened[benchmark.name] = TeamPredictions(path, own, questions, team, anew, images)
    return opened
