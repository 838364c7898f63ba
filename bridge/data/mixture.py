"""The training questions of a run: its data sets laid end to end, once."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import overload

from bridge.data.example import Example, Sample
from bridge.data.stored import Stored
from vlm.errors import UserError


class Listed(list[Sample]):
    """Questions in memory. name: the file that they come from. bad: lines of quarantine.jsonl for the rest of it."""

    def __init__(self, samples: Iterable[Sample], name: str, bad: Iterable[dict] = ()):
        super().__init__(samples)
        self.name, self.bad = name, list(bad)


class Joined(Sequence[Sample]):
    """Several sequences of questions as one, none of them copied."""

    def __init__(self, parts: Iterable[Sequence[Sample]]):
        self.parts = list(parts)
        self.starts = [0, *accumulate(len(part) for part in self.parts)]

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        part = self.part_of(index)
        return self.parts[part][index - self.starts[part]]

    def part_of(self, index: int) -> int:
        """Which of the parts holds the question."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return bisect_right(self.starts, index) - 1


@dataclass(frozen=True)
class Mixture:
    """Several data sets as one sequence of questions; a conversation counts as one.

    From here on a question is known by its index in `examples`, in the schedule and in everything behind it. `ends`
    says where each set ends: sets of 3 and 2 questions have ends (3, 5). `bad` are the lines of quarantine.jsonl for
    the records that are in no set because they cannot be trained on.
    """

    examples: Joined
    ends: tuple[int, ...]
    bad: tuple[dict, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, sets: Iterable[Sequence], bad: Iterable[dict] = ()) -> "Mixture":
        """Lay data sets end to end, in the order given. A set is a sequence of questions, or a list of such parts.

        Raises: UserError if a question has no answer to learn from.
        """
        parts: list[Sequence[Sample]] = []
        ends: list[int] = []
        for given in sets:
            of_parts = bool(len(given)) and isinstance(given[0], Sequence)
            for part in given if of_parts else [given]:
                _check_answers(part)
                parts.append(part)
            ends.append(sum(map(len, parts)))
        return cls(Joined(parts), tuple(ends), tuple(bad))

    def sets(self) -> list[range]:
        """The indices of each data set."""
        starts = (0, *self.ends[:-1])
        return [range(start, end) for start, end in zip(starts, self.ends)]

    def place(self, index: int) -> tuple[str, int]:
        """The file that a question comes from, and its number there: "shard" and "index" of quarantine.jsonl."""
        number = self.examples.part_of(index)
        part, within = self.examples.parts[number], index - self.examples.starts[number]
        if isinstance(part, Stored):
            return part.name, part.record_numbers([within])[0]
        return getattr(part, "name", f"set {number}"), within


def _check_answers(part: Sequence[Sample]) -> None:
    if isinstance(part, Stored):
        return  # it holds none without an answer
    asked = [example for example in part if isinstance(example, Example)]
    if unanswered := [example.question_id for example in asked if not example.answer]:
        raise UserError(
            f"{len(unanswered)} training questions have no answer, the first: {unanswered[0]}; "
            "train on a split whose answers are public and whose annotation file is beside the questions"
        )
