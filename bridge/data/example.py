"""What is trained on and asked: a question about an image, or a conversation about any number of them."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from bridge.data.pictures import Picture


@dataclass(frozen=True, slots=True)
class Example:
    """question_id: the official one as a string (POPE numbers each category's file from 1 on). answer: None if the file
    has none. votes: all annotators' answers (VQAv2), empty elsewhere.
    """

    question_id: str
    image: Picture
    question: str
    answer: str | None
    votes: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[Picture, ...]:
        return (self.image,)

    @property
    def taught_answer(self) -> str:
        """The answer of a training question, which has one: a `Mixture` takes no other."""
        if self.answer is None:
            raise ValueError(f"question {self.question_id} has no answer")
        return self.answer


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation, trained on to the letter.

    images: in the order of their placeholders `<image>` in the questions, which are as many. turns: questions and
    answers, each with all before it as context. system: what a system's turn says in front, or nothing.
    """

    question_id: str
    images: tuple[Picture, ...]
    turns: tuple[tuple[str, str], ...]
    system: str = ""


Sample = Example | Dialogue


def with_sampled_answer(example: Sample, seed: int, epoch: int) -> Sample:
    """The answer drawn in proportion to its votes, blank ones apart: a function of (seed, epoch, question id)."""
    if isinstance(example, Dialogue):
        return example
    votes = [vote for vote in example.votes if vote.strip()]
    if not votes:
        return example
    random = np.random.default_rng([seed, epoch, zlib.crc32(example.question_id.encode())])
    return replace(example, answer=votes[random.integers(len(votes))])
