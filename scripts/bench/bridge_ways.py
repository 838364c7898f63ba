"""Ways to train a connector on the same questions: the stock model's two, and the bridge's."""

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    ViTConfig,
)

from bridge.config import BridgeConfig
from bridge.data.balance import WIDTH
from bridge.data.batches import StepData, load_batches
from bridge.data.features import FeatureCache, PatchEncoder
from bridge.data.packing import Conversation, Row, fill_rows
from bridge.forward import compiled_stack, padded, prefill
from bridge.gradients import Sums, backward, update
from bridge.parts import Trainee, freeze
from vlm.llava.parts import connector, language_model

SLOTS = 196
IMAGE, END, FIRST_WORD = 1, 2, 100  # token ids
OPENING = (10, 11, 12)  # what opens a turn, before the image
TEXT = (22, 29)  # tokens of a question, its answer and the template round them: 25 on average
ANSWER = (1, 3)
ROW_TOKENS, MICRO_TOKENS = 1024, 8192  # the defaults of bridge/train.py


def model_config(layers: int, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None) -> LlavaConfig:
    """ViT-B/16 at 224 in front of Qwen2.5-1.5B's sizes with `layers` layers.

    text, vision: settings of Qwen2's and ViT's in place of these. There are always 196 image slots.
    """
    qwen: dict[str, Any] = dict(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_attention_heads=12, num_key_value_heads=2
    )
    text_config = Qwen2Config(
        **{**qwen, **(text or {})},
        num_hidden_layers=layers,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
    )
    vision_config = ViTConfig(layer_norm_eps=1e-6, image_size=224, patch_size=16, **(vision or {}))
    vision_config.tie_last_hidden_states = True  # the features are taken after the final norm
    return LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=IMAGE,
        image_seq_length=SLOTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def frozen_model(
    config: LlavaConfig, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> LlavaForConditionalGeneration:
    """Random weights that depend on the arguments alone; only the connector is trained."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval().requires_grad_(False)
    connector(model).requires_grad_(True)
    return model


def conversations(questions: tuple[int, ...], config: LlavaConfig) -> list[list[Conversation]]:
    """`questions[i]` about image i: random words of random length, the last of them the answer."""
    text: Any = config.text_config
    random = np.random.default_rng(0)
    images = []
    for image, count in enumerate(questions):
        items = []
        for number in range(count):
            words = random.integers(FIRST_WORD, text.vocab_size, random.integers(*TEXT) - len(OPENING) - 1).tolist()
            ids = (*OPENING, *[IMAGE] * SLOTS, *words, END)
            items.append(Conversation(f"{image}-{number}", ids, len(ids) - 1 - int(random.integers(*ANSWER))))
        images.append(items)
    return images


def pack(images: list[list[Conversation]]) -> list[list[Row]]:
    return [fill_rows([[item] for item in items], OPENING, ROW_TOKENS) for items in images]


def in_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of sequences, in order, in batches of MICRO_TOKENS at most once they are padded to the longest."""
    batches: list[list[int]] = [[]]
    for index, length in enumerate(lengths):
        longest = max([length, *(lengths[other] for other in batches[-1])])
        if batches[-1] and longest * (len(batches[-1]) + 1) > MICRO_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def pictures(folder: Path, count: int) -> list[Path]:
    """Write `count` pictures of noise, 224 x 224, to the folder."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (224, 224, 3), np.uint8)
        Image.fromarray(pixels).save(path, compress_level=0)
    return paths


class Way(ABC):
    """A way to train the connector: a model, its data and its optimizer."""

    tokens: int  # of a step, without padding

    def __init__(self, model: LlavaForConditionalGeneration, questions: tuple[int, ...], folder: Path):
        """model: from `frozen_model`, of which the connector is changed. folder: for the pictures."""
        self.model, self.connector = model, connector(model)
        self.images = conversations(questions, model.config)
        self.processor = CLIPImageProcessor(size={"height": 224, "width": 224}, do_center_crop=False)
        self.load(pictures(folder, len(questions)))
        self.optimizer = torch.optim.AdamW(self.connector.parameters(), lr=1e-3, fused=True)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The language model's decoder layers."""
        layers = language_model(self.model).layers
        assert isinstance(layers, torch.nn.ModuleList)
        return layers

    @abstractmethod
    def load(self, paths: list[Path]) -> None:
        """Prepare what every step uses, from the images' files."""

    @abstractmethod
    def backward(self) -> float:
        """Compute the connector's gradients; returns the mean loss over the answer tokens."""

    @abstractmethod
    def step(self) -> float:
        """One optimizer step; returns the loss."""

    def gradient(self) -> torch.Tensor:
        """The connector's gradients in one row: float32[all its parameters]."""
        gradients = [parameter.grad for parameter in self.connector.parameters() if parameter.grad is not None]
        return torch.cat([gradient.flatten().float() for gradient in gradients])


class OneQuestionASequence(Way):
    """The stock model with labels: each question is a sequence of its own, with the image in it."""

    def load(self, paths: list[Path]) -> None:
        pixels = self.processor(images=[Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
        flat = []  # every question, with the place of its image
        for index, items in enumerate(self.images):
            flat += [(index, item) for item in items]
        self.tokens = sum(len(item.ids) for _, item in flat)
        self.batches, self.labels = [], 0
        for members in in_batches([len(item.ids) for _, item in flat]):
            batch = self.padded([flat[index][1] for index in members])
            shown = [flat[index][0] for index in members]  # an image once for each of its questions
            batch["pixel_values"] = pixels[shown].to(self.model.dtype)
            self.batches.append({name: tensor.to(self.model.device) for name, tensor in batch.items()})
            self.labels += int((batch["labels"] != -100).sum())

    def padded(self, items: list[Conversation]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and labels: int64[sequences, longest], padded on the right."""
        ids = torch.full((len(items), max(len(item.ids) for item in items)), END)
        seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, item in enumerate(items):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
            seen[row, : len(item.ids)] = 1
            for start, end in item.answers or ((item.prompt, len(item.ids)),):
                labels[row, start:end] = torch.tensor(item.ids[start:end])
        return {"input_ids": ids, "attention_mask": seen, "labels": labels}

    def backward(self) -> float:
        whole = torch.zeros((), device=self.model.device)
        for batch in self.batches:  # as transformers' Trainer sums micro-batches: a mean over all labels of the step
            loss = self.model(**batch, num_items_in_batch=self.labels).loss
            loss.backward()
            whole += loss.detach()
        return whole.item()

    def step(self) -> float:
        loss = self.backward()
        torch.nn.utils.clip_grad_norm_(self.connector.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


class MergedConversation(OneQuestionASequence):
    """LLaVA-1.5's way: the questions of an image are the turns of one conversation, which has the image once.

    Turns see those before them. The vision tower runs in every step, and logits are made everywhere.
    """

    def load(self, paths: list[Path]) -> None:
        merged = []
        for items in self.images:
            ids, learnt = list(items[0].ids[: len(OPENING) + SLOTS]), []
            for item in items:
                turn = item.ids[len(OPENING) + SLOTS :]
                end = len(ids) + len(turn)
                learnt.append((end - (len(item.ids) - item.prompt), end))
                ids += turn
            merged.append([Conversation(items[0].question_id, ids, learnt[0][0], tuple(learnt))])
        self.images = merged
        super().load(paths)


class Bridge(Way):
    """This project's way: cached features, all questions of an image in one row, logits at the labels alone."""

    def load(self, paths: list[Path]) -> None:
        self.paths: list[Path] = paths
        self.trainee: Trainee = freeze(self.model, BridgeConfig())  # its attention, its dtypes
        encoder = PatchEncoder(self.model, self.processor)
        self.features = FeatureCache(paths[0].parent / "features", encoder)
        with contextlib.redirect_stderr(io.StringIO()):
            self.features.fill(paths)
        with torch.no_grad():
            self.opening_states = padded(prefill(self.model, OPENING), WIDTH)
        self.tokens = self.prepare().tokens

    def compile(self) -> None:
        """Go on as with --compile."""
        self.trainee = replace(self.trainee, stack=compiled_stack(self.model))

    def prepare(self) -> StepData:
        """The step's micro-batches, each with its rows' features."""
        rows: list[Row] = []
        owners: list[list[Path]] = []  # the image of each row
        for path, image_rows in zip(self.paths, pack(self.images)):
            rows += image_rows
            owners += [[path]] * len(image_rows)
        batches = load_batches(rows, owners, self.features, MICRO_TOKENS, IMAGE)
        return StepData(batches, sum(map(len, self.images)), sum(len(row.ids) for row in rows))

    def sums(self, data: StepData) -> Sums:
        return backward(self.trainee, data, lambda: contextlib.nullcontext(self.opening_states))

    def backward(self) -> float:
        return self.sums(self.prepare()).loss.item()

    def train(self, data: StepData) -> torch.Tensor:
        """One optimizer step on data that are prepared, as the loop makes it: nothing is read from the device."""
        loss = self.sums(data).loss
        update(self.trainee.weights.values(), self.optimizer, loss, 1.0)
        return loss

    def step(self) -> float:
        return self.train(self.prepare()).item()
