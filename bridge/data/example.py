"""One question about one image."""

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


def with_sampled_answer(example: Example, seed: int, epoch: int) -> Example:
    """The answer drawn in proportion to its votes, blank ones apart: a function of (seed, epoch, question id)."""
    votes = [vote for vote in example.votes if vote.strip()]
    if not votes:
        return example
    random = np.random.default_rng([seed, epoch, zlib.crc32(example.question_id.encode())])
    return replace(example, answer=votes[random.integers(len(votes))])
