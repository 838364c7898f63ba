"""A few questions that are not trained on, answered while the connector learns.

The seed chooses them; each look gives a picture and a table to the tracker, and a line to RUN/held_out.jsonl. Training
is not touched: decoding is greedy, draws no random number, and leaves modules and gradients as they were.
"""

import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bridge.config import BridgeConfig
from bridge.data import training_sets
from bridge.data.example import Dialogue, Sample
from bridge.data.mixture import Joined, Mixture
from bridge.data.patches import PatchEncoder
from bridge.data.pictures import open_picture
from bridge.evaluation.decode import Decoder, common_prefix, group_prompts
from bridge.folder import HELD_OUT, RunFolder
from bridge.parts import Trainee
from vlm.errors import UserError
from vlm.files import append_jsonl
from vlm.llava.model import VLM
from vlm.llava.parts import connector, language_model
from vlm.llms.forms import PLACEHOLDER
from vlm.llms.prompt import briefly
from vlm.markdown import ruled

SHOWN = 8  # questions in all
LONGEST = 24  # tokens of an answer
# Data set -> how it is read, and the splits whose answers are public that it may have beside the trained one.
SPLITS = {"gqa": (training_sets.gqa, ("val", "testdev")), "vqav2": (training_sets.vqav2, ("val2014",))}


def held_out_sets(config: BridgeConfig) -> dict[str, Joined]:
    """ "gqa val" -> its questions, for each folder of the run that has a split beside those trained on."""
    found: dict[str, Joined] = {}
    for name, (read, splits) in SPLITS.items():
        directory = getattr(config, name)
        if not directory or not Path(directory).expanduser().is_dir():  # a hub id: nothing is fetched for this
            continue
        trained = {split.split("_")[0] for split in getattr(config, f"{name}_split").split("+")}  # val_all -> val
        for split in splits:
            if split in trained:
                continue
            try:
                questions = Joined(read(directory, split))
            except UserError:  # no such split here
                continue
            if len(questions):
                found[f"{name} {split}"] = questions
                break
    return found


class HeldOut:
    """The questions of one run, their images already encoded: the vision tower does not learn."""

    def __init__(self, config: BridgeConfig, vlm: VLM, trainee: Trainee, encoder: PatchEncoder, mixture: Mixture):
        self._trainee, self._decode_text = trainee, vlm.processor.tokenizer.decode
        sets = held_out_sets(config)
        if not sets:
            sets = {"trained on": mixture.examples}
            print("--show-every: no split beside those trained on, so trained questions are shown", file=sys.stderr)
        self.source = ", ".join(sets)
        self.samples: list[Sample] = []
        self._prompts: list[list[int]] = []
        self._tokens: list[torch.Tensor | None] = []  # patch tokens of each question's images, [images, N, D]
        for number, questions in enumerate(sets.values()):
            order = np.random.default_rng([config.seed, number]).permutation(len(questions))
            wanted = len(self.samples) + SHOWN // len(sets)
            for index in order:
                if len(self.samples) == wanted:
                    break
                self._take(questions[int(index)], vlm, encoder)
        if not self.samples:
            raise UserError(f"--show-every: no question of {self.source} can be asked: leave it out")

    def _take(self, sample: Sample, vlm: VLM, encoder: PatchEncoder) -> None:
        """Keep a question if its texts and images can be used. Of a conversation, the first turn."""
        try:
            if isinstance(sample, Dialogue):
                images = sample.images[: sample.turns[0][0].count(PLACEHOLDER)]
                prompt = vlm.prompt_ids(sample.turns[0][0], None)
            else:
                images, prompt = sample.images, vlm.prompt_ids(briefly(sample.question))
            tokens = encoder(images).cpu() if images else None
        except UserError:  # evaluation and quarantine tell of these
            return
        self.samples.append(sample)
        self._prompts.append(prompt)
        self._tokens.append(tokens)

    @torch.no_grad()
    def answers(self) -> list[str]:
        """What the model says now, greedily."""
        model = self._trainee.model
        text, projector, embed = language_model(model), connector(model), model.get_input_embeddings()
        learning, weight = text.training, next(projector.parameters())
        text.eval()
        try:
            groups = []
            for prompt, tokens in zip(self._prompts, self._tokens):
                features = None
                if tokens is not None:  # through the connector in its own precision, as in training
                    features = projector(tokens.to(weight)).flatten(0, 1).to(embed.weight.dtype)
                groups.append(group_prompts([prompt], features))
            # The opening is read once for all questions, and anew in each look: LoRA changes it.
            beginning = self._prompts[0][: common_prefix(self._prompts)]
            decoded = Decoder(model, beginning).decode(groups, LONGEST)
        finally:
            text.train(learning)
        return [self._decode_text(ids, skip_special_tokens=True).strip() for (ids,) in decoded]

    def show(self, run: RunFolder, step: int) -> None:
        """Record the answers after `step`."""
        run.flush()  # trackers take steps in their order
        rows = []
        for sample, answer in zip(self.samples, self.answers()):
            question, truth = question_and_truth(sample)
            rows.append({"question_id": sample.question_id, "question": question, "truth": truth, "answer": answer})
        append_jsonl(run.folder / HELD_OUT, {"step": step, "source": self.source, "answers": rows})
        if run.config.tracker != "none":
            run.tracker.picture(step, "answers", drawn(self.samples, [row["answer"] for row in rows]), as_table(rows))


def question_and_truth(sample: Sample) -> tuple[str, str]:
    if isinstance(sample, Dialogue):
        return sample.turns[0]
    return sample.question, sample.answer or ""


def as_table(rows: Sequence[dict]) -> str:
    """The answers as a Markdown table."""
    head = ["question", "truth", "answer"]
    return "\n".join(ruled([head, *([row[name] for name in head] for row in rows)], words=3))


def drawn(samples: Sequence[Sample], answers: Sequence[str]) -> Image.Image:
    """The questions under each other's images, four in a row, each over its answer and the true one."""
    from matplotlib.figure import Figure  # takes a second to import

    columns = min(4, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.2 * rows), dpi=100, layout="constrained")
    for number, (sample, answer) in enumerate(zip(samples, answers), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.axis("off")
        if sample.images:
            axes.imshow(open_picture(sample.images[0]), interpolation="nearest")
        question, truth = question_and_truth(sample)
        axes.set_title(_printable(question, 90), fontsize=8, wrap=True, parse_math=False)
        colour = "#1f6f8b" if answer.lower() == truth.lower() else "#b5524c"
        words = f"{_printable(answer, 60)}\n(truth: {_printable(truth, 60)})"
        axes.text(0.5, -0.04, words, ha="center", va="top", fontsize=9, color=colour, transform=axes.transAxes,
                  parse_math=False)  # fmt: skip
    file = io.BytesIO()
    with warnings.catch_warnings():  # of letters that matplotlib's font lacks: an empty box stands there
        warnings.simplefilter("ignore")
        figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _printable(text: str, length: int) -> str:
    """The beginning of a text, on one line."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:length])
