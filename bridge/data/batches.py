"""Packed rows -> micro-batches with the features of their images: what a forward pass takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from bridge.data.features import Features, PatchEncoder
from bridge.data.packing import Batch, Row, make_batch, micro_batches
from bridge.data.pictures import Picture
from bridge.data.questions import Questions
from bridge.data.schedule import Step
from vlm.distributed import rank, world_size


@dataclass(frozen=True)
class MicroBatch:
    """B rows and the patch tokens of their R runs of image slots, row by row: [R, N, D], None without an image."""

    rows: Batch
    features: torch.Tensor | None


@dataclass(frozen=True)
class StepData:
    """This rank's share of one step, and its numbers of questions and of tokens without padding."""

    batches: list[MicroBatch]
    questions: int
    tokens: int
    bad: dict[int, str] = field(default_factory=dict)  # questions left out as their image cannot be decoded -> why


def step_data(step: Step, questions: Questions, features: Features, micro_tokens: int) -> StepData:
    """Tokenise, pack and batch this rank's part of a step: every world_size-th scheduled row."""
    share = step[rank() :: world_size()]
    bad: dict[int, str] = {}
    if isinstance(features, PatchEncoder):  # live: that an image cannot be decoded is seen only now
        examples = questions.mixture.examples
        shown = {index: examples[index].images for scheduled in share for index in scheduled.examples}
        unreadable = features.prepare(list({image: None for images in shown.values() for image in images}))
        bad = {index: unreadable[image] for index, images in shown.items() for image in images if image in unreadable}
        share = tuple(row for row in share if not bad.keys() & set(row.examples))
    rows: list[Row] = []
    images: list[list[Picture]] = []  # of each row; an image comes again if its questions fill several rows
    for scheduled in share:
        packed = questions.pack(scheduled)
        rows += packed
        shown = questions.mixture.examples[scheduled.examples[0]].images
        images += [[shown[image] for image in questions.image_runs(row)] for row in packed]
    batches = load_batches(rows, images, features, micro_tokens)
    asked = sum(len(scheduled.examples) for scheduled in share)
    return StepData(batches, asked, sum(len(row.ids) for row in rows), bad)


def load_batches(
    rows: Sequence[Row], images: Sequence[Sequence[Picture]], features: Features, budget: int
) -> list[MicroBatch]:
    """Batch rows of similar length, as `micro_batches` does, and read their features. images: those of each row."""
    batches = []
    for members in micro_batches(rows, budget):
        shown = [image for index in members for image in images[index]]
        patches = features(shown) if shown else None
        batches.append(MicroBatch(make_batch([rows[index] for index in members]), patches))
    return batches
