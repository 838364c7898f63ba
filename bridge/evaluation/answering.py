"""Asking a VLM a benchmark's questions: what is asked together, what the LLM sees in the image's place."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bridge.data.example import Example
from bridge.evaluation.decode import Decoder, Prompts, common_prefix, image_features, make_prompts, to_text
from vlm.errors import UserError
from vlm.images import load_image
from vlm.llava.model import VLM

ROW_SIZE = 16  # questions that share a row of the batch; measured best of 8, 16, 32, 64 on a CPU
_WINDOW = 16  # batches whose units are sorted together by length


@dataclass(frozen=True)
class Unit:
    """Distinct questions about one image (None: blind); `ids[i]` are all question ids that ask `questions[i]`."""

    image: Path | None
    questions: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]


def plan(examples: Sequence[Example], batch_questions: int, blind: bool = False) -> list[list[Unit]]:
    """Batches of units with about `batch_questions` questions each, neighbours similar in length.

    A question asked twice about an image (POPE asks its positives in three categories) is answered once; blind, a
    question is asked once at all. The plan depends on these arguments alone: where none of them changes, an interrupted
    run goes on with the very batches of an uninterrupted one.
    """
    asked: dict[Path | None, dict[str, list[str]]] = {}
    for example in examples:
        questions = asked.setdefault(None if blind else example.image, {})
        questions.setdefault(example.question, []).append(example.question_id)
    units = []
    for image, questions in asked.items():
        size = ROW_SIZE if blind else len(questions)
        for start in range(0, len(questions), size):
            part = list(itertools.islice(questions.items(), start, start + size))
            units.append(Unit(image, tuple(text for text, _ in part), tuple(tuple(ids) for _, ids in part)))
    batches: list[list[Unit]] = []
    window: list[Unit] = []
    for unit in units:
        window.append(unit)
        if sum(len(u.questions) for u in window) >= _WINDOW * batch_questions:
            batches += _fill(window, batch_questions)
            window = []
    return batches + _fill(window, batch_questions)


def _fill(units: list[Unit], batch_questions: int) -> list[list[Unit]]:
    batches: list[list[Unit]] = []
    for unit in sorted(units, key=lambda unit: sum(map(len, unit.questions))):
        if batches and sum(len(u.questions) for u in batches[-1]) + len(unit.questions) <= batch_questions:
            batches[-1].append(unit)
        else:
            batches.append([unit])
    return batches


def shuffled(images: Sequence[Path], seed: int = 0) -> dict[Path, Path]:
    """Every image -> another one: a control that keeps the questions and the pictures but not their pairs.

    Which one depends on the whole list.
    """
    if len(images) < 2:
        raise UserError("shuffling needs at least two images; there is only one")
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    return {images[a]: images[b] for a, b in zip(order, np.roll(order, 1))}


@dataclass
class Asker:
    """Answers batches of units with one VLM.

    caption: image -> the text that stands in the image's place (oracle); None shows the image itself. show: image ->
    the image shown for it. `bad` collects images that could not be read, with the reason.
    """

    vlm: VLM
    max_new_tokens: int
    blind: bool = False
    caption: Callable[[Path], str] | None = None
    show: dict[Path, Path] | None = None
    bad: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        probes = [self._ids(text, text if self.caption else None) for text in ("a", "9")]
        self.decoder = Decoder(self.vlm.model, probes[0][: common_prefix(probes)], ROW_SIZE)

    def answers(self, batches: Sequence[Sequence[Unit]]) -> Iterator[list[tuple[Unit, list[str]]]]:
        """Per batch its units with the answers to their questions; units with an unreadable image are left out.

        The next batch's images are read while this one is decoded.
        """
        with ThreadPoolExecutor(max_workers=2) as pool:
            upcoming = self._read(pool, batches[0]) if batches else []
            for batch, following in itertools.zip_longest(batches, batches[1:]):
                futures, upcoming = upcoming, self._read(pool, following) if following else []
                yield self._answer(batch, [future.result() for future in futures])

    def _read(self, pool: ThreadPoolExecutor, batch: Sequence[Unit]) -> list[Future]:
        return [pool.submit(self._load, unit.image) for unit in batch]

    def _load(self, path: Path | None) -> Image.Image | UserError | None:
        if self.blind or self.caption is not None:
            return None
        try:
            return load_image(path if self.show is None else self.show[path])
        except UserError as error:
            return error

    def _answer(self, batch: Sequence[Unit], images: Sequence) -> list[tuple[Unit, list[str]]]:
        for unit, image in zip(batch, images):
            if isinstance(image, UserError):
                self.bad[str(unit.image)] = str(image)
        readable = [(unit, image) for unit, image in zip(batch, images) if not isinstance(image, UserError)]
        if not readable:
            return []
        units = [unit for unit, _ in readable]
        decoded = self.decode(units, [image for _, image in readable])
        return [(unit, [to_text(self.vlm, ids) for ids in answers]) for unit, answers in zip(units, decoded)]

    @torch.inference_mode()
    def decode(self, units: Sequence[Unit], images: Sequence[Image.Image | None]) -> list[list[list[int]]]:
        """The new token ids of every question of every unit; `images[i]` is what unit i is shown, if anything."""
        features: Sequence[torch.Tensor | None] = [None] * len(units)
        if images[0] is not None:
            pixels = self.vlm.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
            features = image_features(self.vlm, pixels)
        groups = [self._prompts(unit, feature) for unit, feature in zip(units, features)]
        return self.decoder.decode(groups, self.max_new_tokens)

    def _prompts(self, unit: Unit, features: torch.Tensor | None) -> Prompts:
        caption = self.caption(unit.image) if self.caption else None
        return make_prompts([self._ids(question, caption) for question in unit.questions], features)

    def _ids(self, question: str, caption: str | None) -> list[int]:
        if caption is None:
            return self.vlm.prompt_ids(question, image=not self.blind)
        return self.vlm.prompt_ids(question, image=False, caption=caption)
