"""RUN/quarantine.jsonl lists every sample that could not be used, and why. Too many of them stop the run.

One line: {"shard", "index", "key", "reason"}, with "index" the sample's place in its file (of the bridge's
conversations, among those that could be read). Some have a "position": pretraining, of a sample met while training, in
samples since the start of the run, beside "filled_with", the id of the sample that took its slot; bridge, of a question
met once the language model was loaded, its number in the mixture.
"""

from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

from vlm.errors import UserError
from vlm.files import append_jsonl, drop_torn_line, read_jsonl

JUDGED_SAMPLES = 10_000  # the share of bad samples is that among so many last ones
FEWEST_BAD = 20  # bad samples that a judgement needs; a limit of 0 needs one


class Quarantine:
    """This rank's list. Rank 0 writes `path`, rank r a file beside it until `merge`; no line is written twice.

    Opening drops a last line that a power loss has torn. path: None keeps no list.
    """

    def __init__(self, path: Path | None, rank: int):
        self.path = path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if path and rank else path
        self.listed: set[tuple] = set()
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                drop_torn_line(self.path)
                self.listed = {_identity(record) for record in read_jsonl(self.path)}

    def add(self, records: Iterable[dict]) -> None:
        """Append the records that are not listed yet."""
        for record in records:
            if self.path and _identity(record) not in self.listed:
                self.listed.add(_identity(record))
                append_jsonl(self.path, record)

    def reasons(self) -> Counter:
        """How many records are listed for each reason."""
        return Counter(reason for _, _, reason, _ in self.listed)


class Limit:
    """Stops the run when more than `ratio` of the last 10,000 samples, and at least 20 of them, were bad; at 0, one."""

    def __init__(self, ratio: float, of: str = "the last {} samples drawn"):
        """of: what is judged, with {} for its number."""
        self.ratio, self.of = ratio, of
        self.steps: deque[tuple[int, list[dict]]] = deque()  # of each step: its samples, and the records of bad ones
        self.seen, self.reasons = 0, Counter()  # sums over `steps`

    def check(self, samples: int, bad: list[dict]) -> None:
        """Count one step: how many samples it took, and the records of those that could not be used.

        Raises: UserError if too many of the last samples were bad.
        """
        self.steps.append((samples, bad))
        self.seen += samples
        self.reasons.update(record["reason"] for record in bad)
        # Forget the oldest step as soon as the later ones have samples enough without it.
        while self.seen - self.steps[0][0] >= JUDGED_SAMPLES:
            old_samples, old_bad = self.steps.popleft()
            self.seen -= old_samples
            self.reasons.subtract(record["reason"] for record in old_bad)
        refuse_above(self.ratio, self.seen, self.reasons, self.of)


def refuse_above(
    ratio: float, seen: int, reasons: Counter, of: str, remedy: str = "see quarantine.jsonl, repair the data"
) -> None:
    """Judge `seen` samples by the reasons against the bad ones among them; `of` names them, with {} for their number.

    Raises: UserError if more than `ratio` of them, and at least 20, are bad; if `ratio` is 0, one is enough.
    """
    bad = reasons.total()
    if bad >= (FEWEST_BAD if ratio else 1) and bad > ratio * seen:
        words = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common() if count)
        raise UserError(
            f"{bad} of {of.format(f'{seen:,}')} ({bad / seen:.1%}, limit {ratio:.1%}) cannot be used: {words}; {remedy}"
        )


def merge(path: Path) -> None:
    """Move the lines of the other ranks' files into `path`; for rank 0, when no rank writes any more."""
    whole = Quarantine(path, 0)
    for part in sorted(path.parent.glob(f"{path.stem}.rank*{path.suffix}")):
        whole.add(read_jsonl(part))
        part.unlink()


def _identity(record: dict) -> tuple:
    """What makes two records the same: a resumed run meets the same bad samples again."""
    return record["shard"], record["index"], record["reason"], record.get("position")
