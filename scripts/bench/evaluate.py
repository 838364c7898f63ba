"""Our decoding against stock `generate`, in questions per second. See scripts/bench_evaluate.py."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedConfig

from bench.harness import Goals, median_ratio, seconds, take_turns, verdict
from bench.settings import EvaluateBench
from bridge.data.example import Example
from bridge.data.pictures import Picture
from bridge.evaluation.answering import Asker
from bridge.evaluation.batching import make_batches
from bridge.evaluation.decode import end_ids
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.llava.assembly import assemble
from vlm.llava.model import VLM, load
from vlm.llms.load import load_llm
from vlm.llms.precision import chosen_device, chosen_dtype
from vlm.llms.prompt import briefly

COLOURS = ("red", "green", "blue", "white", "black", "wooden")
NOUNS = ("person", "traffic light", "dog", "dining table", "bottle", "cup", "bus", "surfboard")
OURS = "shared prefix"
NEEDED = {"generate, batch  1": 6, "generate, batch 16": 3}  # times as fast
Answers = dict[str, list[int]]  # question id -> new token ids
Way = Callable[[Sequence[Example]], Answers]


def saved_or_new(settings: EvaluateBench, device: torch.device, dtype: torch.dtype) -> VLM:
    """The VLM that the settings name, or one built on the fly."""
    if settings.vlm:
        return load(settings.vlm, device, dtype)
    return make_vlm(settings.llm, device, dtype)


def make_vlm(llm: str, device: str | torch.device, dtype: torch.dtype) -> VLM:
    """The real tokenizer, template and LLM with a small random ViT in ViT-B/16's token count."""
    config = EncoderConfig(
        vision_width=192, vision_layers=3, vision_heads=3, text_width=32, text_layers=1, text_heads=1
    )
    vlm = assemble(new_encoder(config, seed=0).eval(), load_llm(llm, dtype=dtype))
    new_parts: list[nn.Module] = [vlm.vision_tower, vlm.connector]  # the LLM was loaded in its dtype
    for part in new_parts:
        part.to(dtype)
    whole: list[nn.Module] = [vlm.model]
    for part in whole:
        part.to(device)
    return vlm


def make_examples(images: int, questions: int) -> list[Example]:
    """POPE-like: `questions` different objects asked about each image."""
    things = [f"{colour} {noun}" for noun in NOUNS for colour in COLOURS]
    examples = []
    for image in range(images):
        for number in range(questions):
            thing = things[(7 * image + number) % len(things)]
            question = f"Is there a {thing} in the image?"
            examples.append(Example(f"{image}-{number}", Path(f"{image}.jpg"), question, None))
    return examples


class Rival:
    """Stock generate on left-padded batches of whole prompts."""

    def __init__(self, vlm: VLM, pictures: dict[Picture, Image.Image], max_new_tokens: int):
        self.vlm, self.pictures, self.budget = vlm, pictures, max_new_tokens
        self.ends = end_ids(vlm.model)

    def pixels(self, examples: Sequence[Example]) -> torch.Tensor:
        """float32[B, 3, H, W] of the examples' images, an image as often as it is asked about."""
        images = [self.pictures[example.image] for example in examples]
        return self.vlm.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def __call__(self, examples: Sequence[Example], batch: int) -> Answers:
        answers: Answers = {}
        for start in range(0, len(examples), batch):
            part = examples[start : start + batch]
            for example, tokens in zip(part, self.generate(part)):
                answers[example.question_id] = tokens
        return answers

    def generate(self, examples: Sequence[Example]) -> list[list[int]]:
        """The new token ids of each example, all decoded as one padded batch."""
        prompts = [self.vlm.prompt_ids(briefly(example.question)) for example in examples]
        width, end, device = max(map(len, prompts)), next(iter(self.ends)), self.vlm.model.device
        padded = [[end] * (width - len(ids)) + ids for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        out = self.vlm.model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            pixel_values=self.pixels(examples).to(device),
            do_sample=False,
            max_new_tokens=self.budget,
            pad_token_id=end,
        )
        assert isinstance(out, torch.Tensor)  # a dict only if generate is asked for one
        rows = out[:, width:].tolist()
        return [list(itertools.takewhile(lambda token: token not in self.ends, tokens)) for tokens in rows]

    @torch.inference_mode()
    def gap(self, example: Example, ours: list[int], theirs: list[int]) -> float:
        """Difference of the two logits at the token where the answers part."""
        end = next(iter(self.ends))
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        ids = torch.tensor([self.vlm.prompt_ids(briefly(example.question)) + ours[:at]], device=self.vlm.model.device)
        pixels = self.pixels([example]).to(self.vlm.model.device)
        logits = self.vlm.model(input_ids=ids, pixel_values=pixels).logits[0, -1]
        return float(abs(logits[[*ours, end][at]] - logits[[*theirs, end][at]]))


@dataclass(frozen=True)
class Ours:
    """bridge/evaluate.py's decoding: the questions about an image share its prefix."""

    vlm: VLM
    pictures: dict[Picture, Image.Image]
    max_new_tokens: int
    batch_questions: int

    def __call__(self, examples: Sequence[Example]) -> Answers:
        asker = Asker(self.vlm, self.max_new_tokens)
        answers: Answers = {}
        for batch in make_batches(examples, self.batch_questions):
            images = [asker.pixels(self.pictures[unit.image]) for unit in batch if unit.image is not None]
            for unit, unit_answers in zip(batch, asker.decode(batch, images)):
                for question_ids, tokens in zip(unit.ids, unit_answers):
                    answers.update(dict.fromkeys(question_ids, tokens))
        return answers


def run(settings: EvaluateBench) -> Goals:
    """Time the three ways, print their speeds and where their answers part, and return the verdicts."""
    device = chosen_device(settings.device)
    threads = settings.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    dtype = chosen_dtype(settings.precision, device)
    vlm = saved_or_new(settings, device, dtype)
    pictures = make_pictures(vlm, settings.images)
    examples = make_examples(settings.images, settings.questions)
    rival = Rival(vlm, pictures, settings.max_new_tokens)
    ways = {
        OURS: Ours(vlm, pictures, settings.max_new_tokens, settings.batch_questions),
        "generate, batch  1": partial(rival, batch=1),
        "generate, batch 16": partial(rival, batch=16),
    }
    answers, times = measure(ways, examples, settings.rounds)
    mine = answers[OURS]
    tokens = [len(vlm.prompt_ids(briefly(example.question))) for example in examples]
    print(
        f"{len(examples)} questions on {settings.images} images, {statistics.mean(tokens):.0f} prompt tokens and "
        f"{sum(map(len, mine.values())) / len(mine):.1f} new ones (limit {settings.max_new_tokens}) on average, "
        f"{threads} threads, {device}, {str(dtype).removeprefix('torch.')}, {settings.rounds} rounds"
    )
    print(f"{OURS:18} {len(examples) / statistics.median(times[OURS]):7.2f} questions/s")
    goals = Goals()
    for name in NEEDED:
        theirs = answers[name]
        differ = [example for example in examples if theirs[example.question_id] != mine[example.question_id]]
        line, good = judge(name, median_ratio(times[name], times[OURS]), len(differ), dtype == torch.float32)
        goals.judge(good)
        print(f"{name:18} {len(examples) / statistics.median(times[name]):7.2f} questions/s, {line}")
        for example in differ:
            gap = rival.gap(example, mine[example.question_id], theirs[example.question_id])
            print(f"  {example.question_id}: they part where two logits differ by {gap:.1e}")
    return goals


def make_pictures(vlm: VLM, count: int) -> dict[Picture, Image.Image]:
    """Pictures of noise, in the size that the encoder takes, under the names that `make_examples` asks about."""
    vision = vlm.model.config.vision_config
    assert isinstance(vision, PreTrainedConfig)
    side = vision.to_dict()["image_size"]
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return {Path(f"{i}.jpg"): Image.fromarray(pixels) for i, pixels in enumerate(noise)}


def judge(name: str, ratio: float, differ: int, exact: bool) -> tuple[str, bool]:
    """A line on one rival, and whether what is needed is reached. exact: in bf16 logits tie, and answers may differ."""
    fast, same = ratio >= NEEDED[name], differ == 0 or not exact
    needed = f"needed 0: {verdict(same)}" if exact else "not judged in bf16"
    return (
        f"ours x {ratio:.2f} (needed {NEEDED[name]}: {verdict(fast)}), {differ} answers differ ({needed})",
        fast and same,
    )


def measure(
    ways: Mapping[str, Way], examples: Sequence[Example], rounds: int
) -> tuple[dict[str, Answers], dict[str, list[float]]]:
    """Each way's answers, and its seconds in each round; the ways take turns after a warm-up on two questions."""
    answers: dict[str, Answers] = {}

    def ask(name: str, part: Sequence[Example]) -> None:  # keeps the answers: only the time is returned
        answers[name] = ways[name](part)

    for name in ways:
        ask(name, examples[:2])
    return answers, take_turns({name: partial(seconds, partial(ask, name, examples)) for name in ways}, rounds)
