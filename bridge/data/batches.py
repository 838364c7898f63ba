"""Packed rows -> micro-batches with the features of their images: what a forward pass takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bridge.data.features import Features
from bridge.data.packing import Batch, Row, make_batch, micro_batches
from bridge.data.pictures import Picture
from bridge.data.questions import Questions
from bridge.data.schedule import Step
from vlm.distributed import rank, world_size


@dataclass(frozen=True)
class MicroBatch:
    """B rows and, in the same order, the patch tokens of their images, [B, N, D]."""

    rows: Batch
    features: torch.Tensor


@dataclass(frozen=True)
class StepData:
    """This rank's share of one step, and its numbers of questions and of tokens without padding."""

    batches: list[MicroBatch]
    questions: int
    tokens: int


def step_data(step: Step, questions: Questions, features: Features, micro_tokens: int) -> StepData:
    """Tokenise, pack and batch this rank's part of a step: every world_size-th scheduled row."""
    share = step[rank() :: world_size()]
    rows: list[Row] = []
    images: list[Picture] = []  # of each row; an image comes again if its questions fill several rows
    for scheduled in share:
        packed = questions.pack(scheduled)
        rows += packed
        images += [questions.mixture.examples[scheduled.examples[0]].image] * len(packed)
    batches = load_batches(rows, images, features, micro_tokens)
    return StepData(batches, sum(len(scheduled.examples) for scheduled in share), sum(len(row.ids) for row in rows))


def load_batches(rows: Sequence[Row], images: Sequence[Picture], features: Features, budget: int) -> list[MicroBatch]:
    """Batch rows of similar length, as `micro_batches` does, and read their features. images: one for each row."""
    batches = []
    for members in micro_batches(rows, budget):
        patches = features([images[index] for index in members])
        batches.append(MicroBatch(make_batch([rows[index] for index in members]), patches))
    return batches
