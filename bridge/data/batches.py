"""Packed rows -> micro-batches with what their images are encoded from: what a forward pass takes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from bridge.data.balance import OVERHEAD, WIDTH, RowLengths, cheapest, share_of
from bridge.data.packing import Batch, Row, make_batch
from bridge.data.patches import Features
from bridge.data.pictures import Picture
from bridge.data.questions import Questions
from bridge.data.schedule import Step, without
from vlm.distributed import rank, world_size


@dataclass(frozen=True)
class MicroBatch:
    """B rows, and what `encoder` reads of the R runs of image slots, row by row; None without an image."""

    rows: Batch
    loaded: torch.Tensor | None
    encoder: Features

    @property
    def features(self) -> torch.Tensor | None:
        """The runs' patch tokens on the device, [R, N, D]."""
        return None if self.loaded is None else self.encoder.encode(self.loaded)


@dataclass(frozen=True)
class StepData:
    """This rank's share of one step, and its numbers of questions and of tokens without padding."""

    batches: list[MicroBatch]
    questions: int
    tokens: int
    # Questions left out just now, because an image of theirs is unreadable -> why. They are not counted above.
    left_out: dict[int, str] = field(default_factory=dict)


def step_data(
    step: Step,
    questions: Questions,
    features: Features,
    micro_tokens: int,
    lengths: RowLengths | None = None,
    left_out: Collection[int] = (),
) -> StepData:
    """Tokenise, pack and batch this rank's part of a step.

    lengths: by which processes share it out. left_out: questions that are known to be of no use. They leave their step
    here, behind the sharing, as do those whose images only now turn out to be unreadable: who trains on what is the
    same, whether images are encoded before the run or in it.
    """
    share = step if lengths is None else share_of(step, lengths, rank(), world_size(), micro_tokens)
    share = without(share, left_out) if left_out else share
    examples = questions.mixture.examples
    shown = {scheduled: examples[scheduled.examples[0]].images for scheduled in share}
    # Live, that an image cannot be decoded is seen only now.
    unreadable = features.prepare(list({image: None for images in shown.values() for image in images}))
    seen_now: dict[int, str] = {}
    for scheduled in share:
        for reason in (unreadable[image] for image in shown[scheduled] if image in unreadable):
            seen_now |= dict.fromkeys(scheduled.examples, reason)
    share = tuple(scheduled for scheduled in share if scheduled.examples[0] not in seen_now)
    if seen_now:  # of two images, one may be whole
        kept = {image for scheduled in share for image in shown[scheduled]}
        features.forget({image for images in shown.values() for image in images} - kept)
    rows: list[Row] = []
    images: list[list[Picture]] = []  # of each row; an image comes again if its questions fill several rows
    for scheduled, packed in zip(share, questions.pack(share)):
        rows += packed
        images += [[shown[scheduled][image] for image in questions.image_runs(row)] for row in packed]
    batches = load_batches(rows, images, features, micro_tokens, questions.image_id)
    asked = sum(len(scheduled.examples) for scheduled in share)
    return StepData(batches, asked, sum(len(row.ids) for row in rows), seen_now)


def load_batches(
    rows: Sequence[Row], images: Sequence[Sequence[Picture]], features: Features, budget: int, image_id: int
) -> list[MicroBatch]:
    """Batch rows of like length, as `cheapest` does, and read what is shown. images: those of each row."""
    batches = []
    overhead = OVERHEAD["cuda" if features.pins else "cpu"]
    for members in cheapest([len(row.ids) for row in rows], budget, overhead):
        shown = [image for index in members for image in images[index]]
        batch = make_batch([rows[index] for index in members], image_id, WIDTH)
        if features.pins:
            batch = batch.pinned()
        batches.append(MicroBatch(batch, features.load(shown) if shown else None, features))
    return batches
