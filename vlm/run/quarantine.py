"""RUN/quarantine.jsonl: every sample that could not be used, and why; and the limit above which a run stops.

One line: {"shard", "index", "key", "reason"}, and for a sample met while training also "position" (in samples since
the start of the run) and "filled_with", the id of the sample that took its slot.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from vlm.errors import UserError
from vlm.files import append_jsonl, read_jsonl

WINDOW = 10_000  # samples over which the share of bad ones is judged
FEWEST = 20  # bad samples that a judgement needs


class Quarantine:
    """This rank's list. Rank 0 writes `path`, rank r a file beside it until `merge`; no line is written twice."""

    def __init__(self, path: Path | None, rank: int):
        self.path = path and _rank_file(Path(path), rank)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self.known = {_identity(record) for record in _read(self.path)} if self.path else set()

    def add(self, records: Iterable[dict]) -> None:
        for record in records:
            if self.path and _identity(record) not in self.known:
                self.known.add(_identity(record))
                append_jsonl(self.path, record)


class Limit:
    """Raises `UserError` when more than `ratio` of the last 10,000 samples (and at least 20) were bad."""

    def __init__(self, ratio: float):
        self.ratio = ratio
        self.steps: deque[tuple[int, list[dict]]] = deque()
        self.seen, self.reasons = 0, Counter()

    def check(self, samples: int, bad: list[dict]) -> None:
        """Count one step: how many samples it took, and the records of those that could not be used."""
        self.steps.append((samples, bad))
        self.seen += samples
        self.reasons.update(record["reason"] for record in bad)
        while self.seen - self.steps[0][0] >= WINDOW:
            old, records = self.steps.popleft()
            self.seen -= old
            self.reasons.subtract(record["reason"] for record in records)
        refuse_above(self.ratio, self.seen, self.reasons, "the last {} samples drawn")


def refuse_above(ratio: float, seen: int, reasons: Counter, of: str) -> None:
    """`UserError` where more than `ratio` of `seen` samples, and at least 20, have a reason against them."""
    bad = reasons.total()
    if bad >= FEWEST and bad > ratio * seen:
        words = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common() if count)
        raise UserError(
            f"{bad} of {of.format(f'{seen:,}')} ({bad / seen:.1%}, limit {ratio:.1%}) cannot be used: {words}; "
            "see quarantine.jsonl, repair the data"
        )


def merge(path: Path) -> None:
    """Move the lines of the other ranks' files into `path`; for rank 0, when no rank writes any more."""
    whole = Quarantine(path, 0)
    for part in sorted(path.parent.glob(f"{path.stem}.rank*{path.suffix}")):
        whole.add(_read(part))
        part.unlink()


def _rank_file(path: Path, rank: int) -> Path:
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def _read(path: Path) -> Iterator[dict]:
    return read_jsonl(path) if path.exists() else iter(())


def _identity(record: dict) -> tuple:
    return record["shard"], record["index"], record["reason"], record.get("position")
