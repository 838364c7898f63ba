"""Floating-point operations of a training step, by part: a sum for every way to train the connector."""

import statistics
from collections.abc import Iterable
from itertools import chain

from transformers import LlavaConfig, Qwen2Config, ViTConfig

from bench.bridge_ways import (
    ANSWER,
    MICRO_TOKENS,
    OPENING,
    SLOTS,
    TEXT,
    conversations,
    in_batches,
    model_config,
    pack,
)
from bench.settings import BRIDGE_LAYERS, BridgeCase
from bridge import price
from bridge.data.balance import OVERHEAD, WIDTH, cheapest
from bridge.data.packing import rounded
from bridge.price import TextSizes, VisionSizes


def step_flops(
    config: LlavaConfig, tokens: float, keys: float, logits: float, images: float, encoded: float
) -> dict[str, float]:
    """`bridge.price.step_flops` of a model of these sizes."""
    text, vision = config.text_config, config.vision_config
    assert isinstance(text, Qwen2Config) and isinstance(vision, ViTConfig)
    side, patch = vision.image_size, vision.patch_size
    assert isinstance(side, int) and isinstance(patch, int)  # not height and width apart
    tower = VisionSizes(
        vision.hidden_size, vision.num_hidden_layers, vision.intermediate_size, patch, (side // patch) ** 2
    )
    return price.step_flops(TextSizes.of(text.to_dict()), tower, tokens, keys, logits, images, encoded)


def reference_flops(questions: tuple[int, ...], config: LlavaConfig) -> dict[str, float]:
    """Operations of one step with one question a sequence, padded to the longest of its batch."""
    images = conversations(questions, config)
    return stock_flops(config, [len(item.ids) for item in chain.from_iterable(images)])


def merged_flops(questions: tuple[int, ...], config: LlavaConfig) -> dict[str, float]:
    """Operations of LLaVA-1.5's own step: all questions of an image in one conversation, which has the image once."""
    lengths = []  # tokens of each image's conversation: what opens it once, and every turn's own tokens
    for items in conversations(questions, config):
        turns = [len(item.ids) - SLOTS - len(OPENING) for item in items]
        lengths.append(len(OPENING) + SLOTS + sum(turns))
    return stock_flops(config, lengths)


def stock_flops(config: LlavaConfig, lengths: list[int]) -> dict[str, float]:
    """Operations of the stock model on sequences with an image each: the vision tower runs, logits are everywhere."""
    steps = []
    for batch in in_batches(lengths):
        rows, width = len(batch), max(lengths[index] for index in batch)
        steps.append(step_flops(config, rows * width, width, rows * width, rows, rows))
    return added(steps)


def bridge_flops(questions: tuple[int, ...], config: LlavaConfig, device: str = "cpu") -> dict[str, float]:
    """Operations of one step of the bridge's way. device: "cpu" or "cuda", whose micro-batches differ."""
    images = conversations(questions, config)
    labels = sum(len(item.ids) - item.prompt for item in chain.from_iterable(images))
    lengths = [len(row.ids) for row in chain.from_iterable(pack(images))]
    steps = [step_flops(config, 0, 0, labels, len(images), 0)]
    for batch in cheapest(lengths, MICRO_TOKENS, OVERHEAD[device]):
        width = rounded(max(lengths[index] for index in batch), WIDTH)
        steps.append(step_flops(config, len(batch) * width, width + rounded(len(OPENING), WIDTH), 0, 0, 0))
    return added(steps)


def added(steps: Iterable[dict[str, float]]) -> dict[str, float]:
    """The sum of steps, part by part."""
    steps = list(steps)
    return {name: sum(step[name] for step in steps) for name in steps[0]}


def pass_flops(case: BridgeCase) -> dict[str, float]:
    """Operations of one pass of the bridge over the whole data set: average questions, each image encoded once."""
    asked = case.total_questions / case.total_images
    width = SLOTS + asked * (statistics.mean(range(*TEXT)) - len(OPENING) - 1)
    labels = case.total_questions * (statistics.mean(range(*ANSWER)) + 1)
    images = case.total_images
    return step_flops(model_config(BRIDGE_LAYERS), images * width, width + len(OPENING), labels, images, images)
