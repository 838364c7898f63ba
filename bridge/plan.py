"""--plan: what a run takes, before anything is loaded or downloaded: steps, tokens, balance, hours, disk, memory.

Questions are counted in the data that are given, and their tokens guessed from their bytes. Without data, the counts
are those that GQA and VQAv2 publish, with questions of their usual length. Steps, shares and micro-batches are made by
the code that trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bridge.config import SETS, BridgeConfig, keeps_features, questions_a_step
from bridge.data.balance import OVERHEAD, WIDTH, RowLengths, cheapest, dealt, padded_tokens
from bridge.data.mixture import Mixture
from bridge.data.schedule import Schedule, cut_steps
from bridge.price import TextSizes, VisionSizes, connector_parameters, memory, step_flops
from vlm.encoders.naming import EncoderName, parse_encoder
from vlm.errors import UserError
from vlm.files import read_json
from vlm.hub import model_folder
from vlm.llms.presets import PRESETS, SIZES
from vlm.run.checkpoints import KEEP
from vlm.run.settings import flag

# GQA's balanced training questions and VQAv2's: questions, images (benchmarks' own sites).
PUBLISHED = {"GQA": (943_000, 72_140), "VQAv2": (443_757, 82_783)}
QUESTION_TOKENS, SPREAD = 22, 4  # of a question with its answer and turns, and how much it varies
LABELS = 2.2  # tokens of an answer with the end of its turn
GUESSED_SCALE = 0.85  # tokens of a question to what `text_tokens` guesses
SAMPLED_STEPS = 60
UNPRICED = ("lora", "load_in", "gradient_checkpointing", "precision")  # settings that would change the price
USUAL = (1, 8)  # processes that are priced if --world-size does not say
# What a config.json raises that does not tell a model's sizes.
UNTOLD = (UserError, OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


class PlannedRow(NamedTuple):
    """A row by its numbers of questions and tokens, and the number of the image (or images) that it shows."""

    questions: int
    tokens: int
    image: int


@dataclass(frozen=True)
class Rows:
    """The rows of every step, and what they were counted in."""

    steps: list[list[PlannedRow]]
    counts: dict[str, tuple[int, int]]  # data set -> questions, images
    about: str

    @property
    def all(self) -> list[PlannedRow]:
        return [row for step in self.steps for row in step]

    @property
    def questions(self) -> int:
        return sum(row.questions for row in self.all)

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.all)

    @property
    def images(self) -> int:
        """Different ones."""
        return len({row.image for row in self.all})

    @property
    def uses(self) -> float:
        """How often an image is shown, on average."""
        return len(self.all) / max(1, self.images)


def published_rows(config: BridgeConfig, slots: int) -> Rows:
    """Rows of GQA and VQAv2 as they are published."""
    random, first = np.random.default_rng(config.seed), 0
    rows: list[PlannedRow] = []
    for questions, images in PUBLISHED.values():
        counts = np.maximum(2, random.poisson(questions / images, images))
        counts[: abs(questions - counts.sum())] += np.sign(questions - counts.sum())
        texts = random.normal(QUESTION_TOKENS, SPREAD / np.sqrt(counts)) * counts
        lengths = np.minimum(config.row_tokens, slots + np.maximum(1, texts.round().astype(int)))
        rows += map(PlannedRow, counts.tolist(), lengths.tolist(), range(first, first + images))
        first += images
    limit = questions_a_step(config, sum(questions for questions, _ in PUBLISHED.values()))
    steps: list[list[PlannedRow]] = []
    while not steps or len(steps) < (config.steps or 0):
        in_order = [rows[index] for index in random.permutation(len(rows))]
        steps += cut_steps(in_order, lambda row: row.questions, limit)
    return Rows(steps[: config.steps], PUBLISHED, "as published, of usual length: no data are named")


def given_rows(config: BridgeConfig, mixture: Mixture, slots: int) -> Rows:
    """Rows of the data that are given."""
    limit = questions_a_step(config, len(mixture.examples))
    schedule = Schedule(mixture, config.seed, limit, config.row_tokens - slots, config.shares())
    guess = RowLengths(mixture, slots, GUESSED_SCALE)
    numbers: dict[tuple, int] = {}  # of images, or groups of them that are shown together
    steps: list[list[PlannedRow]] = []
    names = [name for name in SETS if getattr(config, name)]
    for step in schedule.steps(config.steps):
        steps.append([])
        for row in step:
            images = mixture.examples[row.examples[0]].images
            number = numbers.setdefault(images, len(numbers))
            steps[-1].append(PlannedRow(len(row.examples), min(guess(row), config.row_tokens), number))
    sizes = [(len(questions), images) for questions, images in zip(mixture.sets(), schedule.images, strict=True)]
    counts = dict(zip(names, sizes, strict=True))
    return Rows(steps, counts, "counted; tokens guessed from bytes")


@dataclass(frozen=True)
class Load:
    """How steps fall to a number of processes: micro-batches and their fill, padding, balance."""

    micro_batches: float  # of a process in a step
    fill: float  # of --micro-tokens
    padding: float
    balance: float
    largest: int  # tokens of the largest micro-batch


def load_of(rows: Rows, processes: int, budget: int) -> Load:
    """Deal a sample of the steps out as training does."""
    counts, fills, balances = [], [], []
    padded, tokens, largest = 0, 0, 0
    for step in rows.steps[:: max(1, len(rows.steps) // SAMPLED_STEPS)]:
        lengths = [row.tokens for row in step]
        sizes = []  # of each process, what its micro-batches take
        for share in dealt(lengths, processes, budget) if processes > 1 else [list(range(len(step)))]:
            own = [lengths[index] for index in share]
            sizes.append([padded_tokens(own, group) for group in cheapest(own, budget, OVERHEAD["cuda"])])
        sums = [sum(each) for each in sizes]
        balances.append(np.mean(sums) / max(sums))
        flat = [value for each in sizes for value in each]
        fills += [value / budget for value in flat]
        counts.append(max(map(len, sizes)))
        padded, tokens, largest = padded + sum(flat), tokens + sum(lengths), max(largest, *flat)
    return Load(float(np.mean(counts)), float(np.mean(fills)), 1 - tokens / padded, float(np.mean(balances)), largest)


def text_sizes(config: BridgeConfig) -> tuple[TextSizes, str]:
    """Of --llm, without its weights, and what it is called. Raises: UserError if nothing here tells."""
    name = config.llm or str(config.init)
    if name in SIZES:
        return TextSizes.of(SIZES[name]), PRESETS[name]
    path = Path(name)
    if path.suffix == ".gguf":
        from vlm.llms.gguf_file import read_header

        return TextSizes.of(read_header(path)[1]["config"]), name
    try:
        found = read_json(path / "config.json")
        return TextSizes.of(found.get("text_config", found)), name
    except UNTOLD:
        raise UserError(
            f"--plan cannot tell the sizes of {name}: give {', '.join(SIZES)}, or a folder with its config.json"
        ) from None


def vision_sizes(config: BridgeConfig) -> tuple[VisionSizes, str]:
    """Of --encoder or --init's vision tower, and of what; those of ViT-B/16 for one whose sizes are not told."""
    named, reason = config.encoder or config.init, ""
    if named is not None:
        try:
            return _told_sizes(config, named), named
        except UserError as error:
            reason = f" ({error})"
        except UNTOLD:
            pass
    side, usual = config.image_size or 224, VisionSizes()
    taken = f"{named or 'none named'}, taken for a ViT-B/16 at {side} pixels{reason}"
    return replace(usual, patches=(side // usual.patch) ** 2), taken


def _told_sizes(config: BridgeConfig, named: str) -> VisionSizes:
    """By small files alone, which are fetched from the hub. Raises: one of `UNTOLD`."""
    if config.init is not None:
        return _of_llava(read_json(Path(named) / "config.json")["vision_config"])
    encoder = parse_encoder(named)
    if encoder.kind != "levljepa":
        return _of_module(encoder, config.image_size)
    folder = model_folder(encoder.place, ["config.json"], "give an encoder's folder")
    return _of_levljepa(read_json(folder / "config.json")["vision_encoder"], config.image_size)


def _of_module(name: EncoderName, image_size: int | None) -> VisionSizes:
    """Of hf:NAME, timm:NAME and blind: the model is made without weights and without memory."""
    from vlm.encoders.by_name import open_encoder

    with torch.device("meta"):
        encoder = open_encoder(str(replace(name, random=True)))
    vision, patch, side = encoder.vision, encoder.config.patch_size, image_size or encoder.config.image_size
    if not hasattr(vision, "blocks"):
        return _of_llava({**vision.config.to_dict(), "image_size": side})
    inner = vision.blocks[0].mlp.fc1.out_features
    return VisionSizes(encoder.width, len(vision.blocks), inner, patch, (side // patch) ** 2)


def _of_levljepa(sizes: dict[str, Any], image_size: int | None) -> VisionSizes:
    width, patch = sizes["hidden_size"], sizes["patch_size"]
    side = image_size or sizes["image_size"]
    return VisionSizes(width, sizes["num_layers"], 4 * width, patch, (side // patch) ** 2)


def _of_llava(sizes: dict[str, Any]) -> VisionSizes:
    """From the `vision_config` of a stock LLaVA. DINOv2's class says how many times as wide its MLP is."""
    width, patch = sizes["hidden_size"], sizes["patch_size"]
    inner = sizes["intermediate_size"] if "intermediate_size" in sizes else int(width * sizes["mlp_ratio"])
    return VisionSizes(width, sizes["num_hidden_layers"], inner, patch, (sizes["image_size"] // patch) ** 2)


def describe(config: BridgeConfig, mixture: Mixture | None, processes: Sequence[int]) -> str:
    """The price of a run as a table, one column for each number of processes."""
    text, llm = text_sizes(config)
    vision, encoder = vision_sizes(config)
    slots = vision.patches
    rows = published_rows(config, slots) if mixture is None else given_rows(config, mixture, slots)
    steps, shown, questions, tokens = len(rows.steps), len(rows.all), rows.questions, rows.tokens
    live = not keeps_features(config, rows.uses)
    kept = 0 if live else rows.images * slots * vision.width * 2
    lines = [f"llm: {llm}, {text.parameters / 1e6:,.0f} M parameters", f"encoder: {encoder}"]
    lines += [f"{name}: {count:,} questions, {images:,} images" for name, (count, images) in rows.counts.items()]
    if ignored := [flag(name) for name in UNPRICED if getattr(config, name)]:
        lines.append(f"not counted below: {', '.join(ignored)}")
    lines += [
        f"questions: {rows.about}",
        f"steps: {steps:,} of {questions / steps:,.0f} questions "
        f"and {shown / steps:,.0f} rows; {questions:,} questions in all",
        f"tokens: {tokens / 1e6:,.1f} million, {tokens / questions:.1f} a question, about",
        f"features: {'live' if live else f'cached, {kept / 1e9:,.1f} GB'}; an image is shown {rows.uses:.2f} times",
    ]
    lines += ["", *_columns(config, text, vision, rows, processes, shown if live else rows.images)]
    trained = connector_parameters(text, vision)
    result = 2 * (text.parameters + vision.parameters + trained) / 1e9
    lines += ["", f"disk: {KEEP} checkpoints of {12 * trained / 1e6:,.0f} MB, RUN/vlm {result:,.1f} GB"
              + (f", features {kept / 1e9:,.1f} GB" if kept else "")]  # fmt: skip
    return "\n".join(lines)


def _columns(
    config: BridgeConfig, text: TextSizes, vision: VisionSizes, rows: Rows, processes: Sequence[int], encoded: int
) -> list[str]:
    """The lines that depend on the number of processes."""
    table: dict[str, list[str]] = {}

    def add(name: str, value: str) -> None:
        table.setdefault(name, []).append(value)

    shown, questions, tokens = len(rows.all), rows.questions, rows.tokens
    for count in processes:
        found = load_of(rows, count, config.micro_tokens)
        padded = tokens / (1 - found.padding)
        parts = step_flops(text, vision, padded, padded / shown + WIDTH, questions * LABELS, shown, encoded)
        flops = sum(parts.values())
        seconds = flops / (config.peak_tflops * 1e12 * config.mfu * count * found.balance)
        add("GPUs", str(count))
        add("micro-batches a step, of each", f"{found.micro_batches:.1f}")
        add("filled, of --micro-tokens", f"{found.fill:.2f}")
        add("padding", f"{found.padding:.1%}")
        add("balance (mean / largest share)", f"{found.balance:.3f}")
        add("operations", f"{flops:.2e}")
        add(f"hours at {config.mfu:.0%} of {config.peak_tflops:g} TFLOP/s", f"{seconds / 3600:.2f}")
        add("questions a second", f"{questions / seconds:,.0f}")
        kinds = memory(text, vision, found.largest, LABELS * found.largest * questions / tokens)
        for kind, size in kinds.items():
            add(f"GB of each: {kind}", f"{size / 1e9:.1f}")
        add("GB of each: total", f"{sum(kinds.values()) / 1e9:.1f}")
    return [f"{name:36}" + "".join(f"{value:>12}" for value in values) for name, values in table.items()]
