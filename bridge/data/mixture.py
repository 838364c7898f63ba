"""The training questions of a run: its data sets laid end to end, once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.data.example import Example, Sample
from vlm.errors import UserError


@dataclass(frozen=True)
class Mixture:
    """Several data sets as one sequence of questions; a conversation counts as one.

    From here on a question is known by its index in `examples`, in the schedule and in everything behind it. `ends`
    says where each set ends: sets of 3 and 2 questions have ends (3, 5).
    """

    examples: tuple[Sample, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, sets: Iterable[Sequence[Sample]]) -> "Mixture":
        """Lay data sets end to end, in the order given; `UserError` if a question has no answer to learn from."""
        examples: list[Sample] = []
        ends: list[int] = []
        for questions in sets:
            asked = [example for example in questions if isinstance(example, Example)]
            if unanswered := [example.question_id for example in asked if not example.answer]:
                raise UserError(
                    f"{len(unanswered)} training questions have no answer, the first: {unanswered[0]}; "
                    "train on a split whose answers are public and whose annotation file is beside the questions"
                )
            examples += questions
            ends.append(len(examples))
        return cls(tuple(examples), tuple(ends))

    def sets(self) -> list[range]:
        """The indices of each data set."""
        starts = (0, *self.ends[:-1])
        return [range(start, end) for start, end in zip(starts, self.ends)]


def answer_of(example: Example) -> str:
    """The answer of a training question, which has one: a `Mixture` takes no other."""
    if example.answer is None:
        raise ValueError(f"question {example.question_id} has no answer")
    return example.answer
