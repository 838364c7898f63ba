"""Ways to train a connector on the same questions: the stock model's two, and the bridge's."""

import contextlib
import io
from abc import ABC, abstractmethod
from pathlib import Path

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
from bridge.forward import padded, prefill
from bridge.gradients import Sums, backward, update
from bridge.parts import freeze
from vlm.llava.parts import connector, language_model

VOCABULARY, SLOTS = 151936, 196
IMAGE, END, FIRST_WORD = 1, 2, 100  # token ids
OPENING = (10, 11, 12)  # what opens a turn, before the image
TEXT = (22, 29)  # tokens of a question, its answer and the template round them: 25 on average
ANSWER = (1, 3)
ROW_TOKENS, MICRO_TOKENS = 1024, 8192  # the defaults of bridge/train.py


def model_config(layers: int) -> LlavaConfig:
    """ViT-B/16 at 224 in front of Qwen2.5-1.5B's sizes with `layers` layers."""
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
    )
    vision = ViTConfig(layer_norm_eps=1e-6, image_size=224, patch_size=16)
    vision.tie_last_hidden_states = True  # the features are taken after the final norm
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=SLOTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def frozen_model(layers: int, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """Random weights that depend on `layers` and `dtype` alone; only the connector is trained."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(model_config(layers), dtype=dtype).eval().requires_grad_(False)
    connector(model).requires_grad_(True)
    return model


def conversations(questions: tuple[int, ...]) -> list[list[Conversation]]:
    """`questions[i]` about image i: random words of random length, the last of them the answer."""
    random = np.random.default_rng(0)
    images = []
    for image, count in enumerate(questions):
        items = []
        for number in range(count):
            words = random.integers(FIRST_WORD, VOCABULARY, random.integers(*TEXT) - len(OPENING) - 1).tolist()
            ids = (*OPENING, *[IMAGE] * SLOTS, *words, END)
            items.append(Conversation(f"{image}-{number}", ids, len(ids) - 1 - int(random.integers(*ANSWER))))
        images.append(items)
    return images


def pack(images: list[list[Conversation]]) -> list[list[Row]]:
    return [fill_rows([[item] for item in items], OPENING, ROW_TOKENS) for items in images]


def pictures(folder: Path, count: int) -> list[Path]:
    """Write `count` pictures of noise, 224 x 224, to the folder."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (224, 224, 3), np.uint8)
        Image.fromarray(pixels).save(path, compress_level=0)
    return paths


class Way(ABC):
    """A way to train the connector: a model, its data and its optimizer."""

    def __init__(self, layers: int, dtype: torch.dtype, questions: tuple[int, ...], folder: Path):
        self.model = frozen_model(layers, dtype)
        self.connector = connector(self.model)
        self.images = conversations(questions)
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
        width = max(len(item.ids) for _, item in flat)
        ids = torch.full((len(flat), width), END)  # [questions, longest], padded on the right
        seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (_, item) in enumerate(flat):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
            seen[row, : len(item.ids)] = 1
            for start, end in item.answers or ((item.prompt, len(item.ids)),):
                labels[row, start:end] = torch.tensor(item.ids[start:end])
        pixels = pixels[[index for index, _ in flat]].to(self.model.dtype)  # an image once for each of its questions
        self.inputs = {"input_ids": ids, "attention_mask": seen, "labels": labels, "pixel_values": pixels}

    def backward(self) -> float:
        loss = self.model(**self.inputs).loss
        loss.backward()
        return loss.item()

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
        self.paths, self.trainee = paths, freeze(self.model, BridgeConfig())  # its attention, its dtypes
        encoder = PatchEncoder(self.model, self.processor)
        self.features = FeatureCache(paths[0].parent / "features", encoder)
        with contextlib.redirect_stderr(io.StringIO()):
            self.features.fill(paths)
        with torch.no_grad():
            self.constant = padded(prefill(self.model, OPENING), WIDTH)

    def prepare(self) -> StepData:
        """The step's micro-batches, each with its rows' features."""
        rows: list[Row] = []
        owners: list[list[Path]] = []  # the image of each row
        for path, image_rows in zip(self.paths, pack(self.images)):
            rows += image_rows
            owners += [[path]] * len(image_rows)
        batches = load_batches(rows, owners, self.features, MICRO_TOKENS, IMAGE)
        return StepData(batches, sum(map(len, self.images)), sum(len(row.ids) for row in rows))

    def sums(self) -> Sums:
        return backward(self.trainee, self.prepare(), lambda: contextlib.nullcontext(self.constant))

    def backward(self) -> float:
        return self.sums().loss.item()

    def step(self) -> float:
        loss = self.sums().loss
        update(self.trainee.weights.values(), self.optimizer, loss, 1.0)
        return loss.item()
