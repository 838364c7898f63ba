"""Image-caption pairs as training batches, a pure function of (seed, step).

    --data -> source.open_captions() -> Captions -> CaptionBatches -> {"images", "tokens", "lengths", ...} -> the model

A sample that cannot be used is quarantined with its reason. Its slot must still be filled, since BatchNorm and equal
ranks need full batches: by a sample drawn from the whole source with a key made of (seed, position, attempt), never by
its neighbour, and the quarantine line names both.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from pretrain.data.captions import BadSample
from pretrain.data.order import Stream
from pretrain.data.pairs import Captions, usable_captions
from pretrain.data.tars import Damage
from pretrain.data.workers import START, dead_loaders_told
from vlm.distributed import barrier
from vlm.errors import UserError
from vlm.images import ImageError, decode
from vlm.run.quarantine import Limit, Quarantine, merge, refuse_above
from vlm.run.signals import end_with_parent

ATTEMPTS = 100  # samples drawn for one slot before the run gives up
Pixels = torch.Tensor | tuple[torch.Tensor, ...]  # of an image, or of its crops by size
Row = tuple[Pixels, str, str]  # pixels, caption, id "shard:index"
Transform = Callable[[Image.Image, torch.Generator], Pixels]
Tokenize = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]  # captions -> int64[B, T], int64[B]


class CaptionBatches(Dataset):
    """Iterates over this rank's rows of the global batches `start_step`, `start_step` + 1, ... (`stop_step` excluded).

    Each item: {"images": uint8[B / world_size, 3, H, W], or a list of crops [B / world_size, V, 3, h, w] if `transform`
    gives several, "captions": list[str], "ids": list["shard:index"]}, and with `tokenize` "tokens": int64[B, T] and
    "lengths": int64[B] of the captions; pinned if there is a GPU. Position = step * B + row is all that decides a
    sample and its augmentation: world size and workers only cut it up, and a run resumes at any step without replay.
    """

    def __init__(
        self,
        data: Captions,
        transform: Transform,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        stop_step: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        fit: int | None = None,
        quarantine: Path | None = None,
        bad_ratio: float = 0.05,
        tokenize: Tokenize | None = None,
    ):
        """batch_size: over all ranks. transform: gets a generator of its own for each position. fit: as for `decode`.

        tokenize: is called where a batch is made, in the worker if there are any.

        Raises: UserError if the data is smaller than a batch, or a batch cannot be split evenly over the ranks.
        """
        if len(data) < batch_size:
            remedy = f"lower --batch-size to {len(data):,} or less, or give more data"
            raise UserError(f"the data holds {len(data):,} usable samples, a batch takes {batch_size:,}: {remedy}")
        if batch_size % world_size:
            raise UserError(f"--batch-size {batch_size} cannot be split evenly over {world_size} processes")
        self.data, self.transform, self.tokenize, self.seed, self.fit = data, transform, tokenize, seed, fit
        self.order = data.order(seed)
        self.batch_size, self.local, self.rank = batch_size, batch_size // world_size, rank
        self.steps = range(start_step, sys.maxsize if stop_step is None else stop_step)
        self.workers, self.quarantine, self.bad_ratio = workers, quarantine, bad_ratio

    def __iter__(self) -> Iterator[dict]:
        """Load the batches in order, list their bad samples, and judge how many there are; collective at the end.

        At the end it is told how many captions were not UTF-8, which are used all the same.
        """
        listed, parts = Quarantine(self.quarantine, self.rank), self.data.parts()
        if self.rank == 0:
            listed.add(self.data.unusable())
        for label, part in parts:  # a rotten source is not hidden by a large sound one
            left_out = part.reasons()
            refuse_above(self.bad_ratio, len(part) + left_out.total(), left_out, "all {} samples" + _of(label))
        limits = [Limit(self.bad_ratio, "the last {} samples drawn" + _of(label)) for label, _ in parts]
        seen = replaced = 0
        for batch in self._load():
            bad, sources = batch.pop("bad"), batch.pop("sources")
            listed.add(bad)
            if "error" in batch:
                raise UserError(batch["error"])
            self._judge(limits, sources, bad)
            seen, replaced = seen + self.local, replaced + sum("\ufffd" in text for text in batch["captions"])
            yield batch
        if replaced and self.rank == 0:
            told = (
                f"{replaced:,} of the {seen:,} captions drawn by rank 0 have U+FFFD in place of bytes that are no UTF-8"
            )
            print(f"{told}: convert the texts, as by iconv -f latin1 -t utf-8", file=sys.stderr)
        if self.quarantine:
            barrier()
            if self.rank == 0:
                merge(self.quarantine)

    def _judge(self, limits: list[Limit], sources: list[int], bad: list[dict]) -> None:
        """Hold the step's bad samples against each source's limit; `sources` are those of the rank's rows."""
        for number, limit in enumerate(limits):
            rows = [record["position"] % self.batch_size - self.rank * self.local for record in bad]
            own = [record for record, row in zip(bad, rows) if sources[row] == number]
            limit.check(sources.count(number), own)

    def _load(self) -> Iterator[dict]:
        """self[step] for all steps in order, made by worker processes if there are any."""
        if self.workers:  # else a tokenizer that has used threads here warns in each worker that it cannot there
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader = DataLoader(
            self,
            batch_size=None,  # an item is a whole batch
            sampler=self.steps,
            num_workers=self.workers,
            collate_fn=_as_is,  # the default would walk over every caption and id
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_outlive_signals,
            multiprocessing_context=START if self.workers else None,
        )
        with dead_loaders_told(reading=self.workers > 0):
            yield from loader

    def __getitem__(self, index: int) -> dict:
        """This rank's rows of the global batch of step `index`, with the quarantine records of its slots as "bad".

        "sources": the part of the data that each row is drawn from, by number.

        An "error" in place of the rows ends the run.
        """
        first = self._first(index)
        numbers = self._numbers(index)
        sources = [self.data.part(number) for number in numbers.tolist()]
        if self.data.reads_ahead:
            ahead = index + max(1, self.workers)  # the step that this process makes next
            self.data.prefetch(numbers.tolist(), self._numbers(ahead).tolist() if ahead in self.steps else ())
        rows: dict[int, Row] = {}
        bad: list[dict] = []
        try:
            for row in np.argsort(numbers).tolist():  # read each shard front to back
                rows[row] = self._fill(first + row, int(numbers[row]), bad)
        except UserError as error:  # across the process boundary as data, or its one line becomes a traceback
            return {"error": str(error), "bad": bad, "sources": sources}
        bad.sort(key=lambda record: record["position"])
        images, captions, ids = (list(column) for column in zip(*(rows[row] for row in range(self.local))))
        batch = {"images": default_collate(images), "captions": captions, "ids": ids}
        if self.tokenize:
            batch["tokens"], batch["lengths"] = self.tokenize(captions)
        return batch | {"bad": bad, "sources": sources}

    def _first(self, index: int) -> int:
        """This rank's first position in a step."""
        return index * self.batch_size + self.rank * self.local

    def _numbers(self, index: int) -> np.ndarray:
        """int64[local]: the samples of this rank's rows of a step."""
        return self.order.indices(self._first(index), self._first(index) + self.local)

    def _fill(self, position: int, number: int, bad: list[dict]) -> Row:
        """The sample `number`, or the first usable one of those drawn in its place; `bad` gets what cannot be used."""
        for attempt in range(ATTEMPTS):
            try:
                return self._sample(position, number)
            except BadSample as error:
                random = np.random.PCG64([self.seed, position, attempt, Stream.FILL])
                choices = self.data.alternatives(number)
                substitute = choices[int(random.random_raw() % len(choices))]
                shard, index = self.data.identify(number)
                key = None  # stays so if the file cannot be read just now, as the reason says
                with suppress(OSError, Damage):
                    key = self.data.key(number)
                record = {"shard": shard, "index": index, "key": key, "reason": str(error)}
                bad.append(record | {"position": position, "filled_with": self._id(substitute)})
                number = substitute
        last = bad[-1]
        where = f"sample {last['index']} of {last['shard']} ({last['key']})"
        raise UserError(f"{ATTEMPTS} samples in a row cannot be used, the last, {where}, for: {last['reason']}")

    def _sample(self, position: int, number: int) -> Row:
        """Read, decode and augment one sample. Raises: BadSample if it cannot be used."""
        try:
            image_bytes, raw = self.data.read(number)
        except OSError as error:
            raise BadSample(f"read error: {error.strerror}") from error
        captions = usable_captions(raw)
        if not captions:
            raise BadSample("empty caption")
        # Of several captions of an image one is drawn, each time that the image comes.
        drawn = 0 if len(captions) == 1 else np.random.PCG64([self.seed, position, Stream.CAPTION]).random_raw()
        if image_bytes is None:
            raise BadSample("no image")
        try:
            image = decode(image_bytes, fit=self.fit)
        except ImageError as error:
            raise BadSample(error.reason) from error
        state = np.random.SeedSequence([self.seed, position, Stream.AUGMENT]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state) >> 1)
        return self.transform(image, generator), captions[int(drawn) % len(captions)], self._id(number)

    def _id(self, number: int) -> str:
        shard, index = self.data.identify(number)
        return f"{shard}:{index}"


def _of(label: str) -> str:
    return f" of {label}" if label else ""


def _as_is(batch: Any) -> Any:
    return batch


def _outlive_signals(worker: int) -> None:
    """A whole process group may be told to stop; the run then still needs its loaders for the step that it finishes."""
    end_with_parent(signal.SIG_IGN)
