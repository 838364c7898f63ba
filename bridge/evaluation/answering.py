"""Asking a VLM a benchmark's questions."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image

from bridge.data.patches import pinned
from bridge.data.pictures import Picture, open_picture, picture_size
from bridge.evaluation.batching import Unit, make_batches
from bridge.evaluation.benchmarks import TITLES, Benchmark
from bridge.evaluation.decode import Decoder, common_prefix, group_prompts
from bridge.evaluation.predictions import TeamPredictions
from bridge.evaluation.team import Team, share
from vlm.cores import cores_of_this_process
from vlm.device import enough_memory, sent
from vlm.errors import UserError
from vlm.llava.model import VLM
from vlm.llava.pixels import pixels_of
from vlm.llms.prompt import briefly
from vlm.run.progress import progress

Reading = list[tuple[Unit, "Future[torch.Tensor | None]"]]  # units whose images are being read


@dataclass(frozen=True)
class UnitAnswers:
    """The answers to a unit's questions, in their order; none, with a `problem`, if its image cannot be read."""

    unit: Unit
    texts: list[str]
    problem: str = ""


class Asker:
    """Answers batches of units with one VLM.

    Each question asks for a short answer. blind: no image is shown. captions: image -> the text in its place
    (oracle). shown: image -> the image shown for it. By default an image itself is shown.
    """

    def __init__(
        self,
        vlm: VLM,
        max_new_tokens: int,
        blind: bool = False,
        captions: Mapping[Picture, str] | None = None,
        shown: Mapping[Picture, Picture] | None = None,
    ):
        self.vlm, self.max_new_tokens = vlm, max_new_tokens
        self._transform = pixels_of(vlm.processor.image_processor)
        self.blind, self._captions, self._shown = blind, captions, shown
        # Two prompts that differ from the first word on show how all of them begin.
        probes = [self._prompt_ids(text, None if captions is None else text) for text in ("a", "9")]
        self._decoder = Decoder(vlm.model, probes[0][: common_prefix(probes)])

    def answers(self, batches: Iterable[Sequence[Unit]]) -> Iterator[list[UnitAnswers]]:
        """The answers of one batch after the other. The next batch's images are read while this one is decoded."""
        with ThreadPoolExecutor(cores_of_this_process()) as pool:
            waiting: Reading = []
            for batch in [*batches, []]:  # the empty one brings out the answers of the last
                following = [(unit, pool.submit(self._load, unit)) for unit in batch]
                if waiting:
                    yield self._answer(waiting)
                waiting = following

    def _load(self, unit: Unit) -> torch.Tensor | None:
        """The pixels of what a unit is shown, if anything. Raises a UserError for an image that cannot be read."""
        if unit.image is None or self._captions is not None:
            return None
        return self.pixels(open_picture(unit.image if self._shown is None else self._shown[unit.image]))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """float[3, H, W] in the vision tower's dtype; without Python's lock, so that threads make several at once."""
        return self._transform(image).to(self.vlm.vision_tower.dtype)

    def _answer(self, reading: Reading) -> list[UnitAnswers]:
        unreadable: list[UnitAnswers] = []
        units: list[Unit] = []
        images: list[torch.Tensor | None] = []
        for unit, future in reading:
            try:
                images.append(future.result())
                units.append(unit)
            except UserError as error:
                unreadable.append(UnitAnswers(unit, [], str(error)))
        decoded = self.decode(units, images) if units else []
        to_text = partial(self.vlm.processor.tokenizer.decode, skip_special_tokens=True)
        answered = [
            UnitAnswers(unit, [to_text(ids).strip() for ids in answers]) for unit, answers in zip(units, decoded)
        ]
        return unreadable + answered

    @torch.inference_mode()
    def decode(self, units: Sequence[Unit], images: Sequence[torch.Tensor | None]) -> list[list[list[int]]]:
        """The new token ids of every question of every unit. images: `pixels` that each is shown, or None for all."""
        features: Sequence[torch.Tensor | None] = [None] * len(units)
        if shown := [image for image in images if image is not None]:
            device = self.vlm.vision_tower.device
            pixels = torch.stack(shown)  # float[B, 3, H, W]
            pixels = sent(pinned(pixels, device.type == "cuda"), device)
            output = self.vlm.model.get_image_features(pixel_values=pixels)
            assert not isinstance(output, tuple) and output.pooler_output is not None  # no tuple was asked for
            features = list(output.pooler_output)  # what the LLM reads in place of the slots, [N, D] for each image
        groups = []
        for unit, own in zip(units, features):
            caption = None if self._captions is None or unit.image is None else self._captions[unit.image]
            groups.append(group_prompts([self._prompt_ids(question, caption) for question in unit.questions], own))
        return self._decoder.decode(groups, self.max_new_tokens)

    def _prompt_ids(self, question: str, caption: str | None) -> list[int]:
        images = 0 if self.blind or caption is not None else 1
        return self.vlm.prompt_ids(briefly(question), images, caption)


def answer(
    asker: Asker, benchmark: Benchmark, predictions: TeamPredictions, batch_questions: int, team: Team
) -> dict[str, Any]:
    """Answer what `predictions` does not hold yet, appending batch by batch, this process its share; collective.

    Returns how it went: bad_images (image -> why it could not be read), bad_questions (id -> why no prompt may hold
    it), answered_now, seconds, questions_per_s.
    """
    refused = refused_questions(asker.vlm, benchmark)
    asked = [example for example in benchmark.examples if example.question_id not in refused]
    images = {example.question_id: example.image for example in asked}
    already = len(predictions.answers)
    batches = make_batches(asked, batch_questions, asker.blind)
    # A batch that a kill cut in two is decoded whole again, and processes share out whole batches: in another company
    # an answer could round differently.
    open_batches = [batch for batch in batches if any(unit.all_ids() - predictions.answers.keys() for unit in batch)]
    sizes = [sum(len(unit.questions) for unit in batch) for batch in open_batches]
    own = [open_batches[number] for number in share(sizes, team.rank, team.size)]
    bad_images: dict[str, str] = {}
    start = time.perf_counter()

    def work() -> None:
        title = TITLES[benchmark.name]
        bar = progress(len(asked), title, "q", initial=already, show=team.rank == 0)
        doing = f"while about {batch_questions} questions were answered together"
        with bar, enough_memory(lambda: doing, lambda: _smaller(batch_questions)):
            for batch in asker.answers(own):
                bad_images.update({str(each.unit.image): each.problem for each in batch if each.problem})
                new = [record for record in _records(batch, images) if record["question_id"] not in predictions.answers]
                predictions.append(new)
                total = already + team.count(benchmark.name, len(new))
                bar.update(total - bar.n)
                if team.failed():
                    return

    team.all(work)
    predictions.finish()
    seconds, count = time.perf_counter() - start, len(predictions.answers) - already
    found = {image: problem for part in team.gather(bad_images) for image, problem in part.items()}
    in_order = {str(image): found[str(image)] for image in benchmark.images if str(image) in found}
    speed = round(count / seconds, 2) if count else None
    return {
        "bad_images": in_order,
        "bad_questions": refused,
        "answered_now": count,
        "seconds": round(seconds, 2),
        "questions_per_s": speed,
    }


def _smaller(batch_questions: int) -> str:
    """What helps. In other batches an answer could round differently, so that those so far are of no use."""
    less = f"--overwrite --batch-questions {max(1, batch_questions // 2)} starts anew"
    return f"close what else uses the device, and the same command goes on; {less}"


def _records(batch: Sequence[UnitAnswers], images: Mapping[str, Picture]) -> Iterator[dict[str, str | int]]:
    """The lines of the predictions file. images: question id -> image."""
    for answered in batch:
        for ids, question, text in zip(answered.unit.ids, answered.unit.questions, answered.texts):
            for key in ids:
                size = picture_size(images[key])
                image = {"image": images[key].name, **({} if size is None else {"image_bytes": size})}
                yield {"question_id": key, **image, "question": question, "answer": text}


def refused_questions(vlm: VLM, benchmark: Benchmark) -> dict[str, str]:
    """The questions that no prompt may hold: question id -> why. They are not asked, and count as wrong."""
    reasons = ((each.question_id, vlm.prompts.refusal(each.question)) for each in benchmark.examples)
    return {question_id: reason for question_id, reason in reasons if reason}
