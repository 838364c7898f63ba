"""A VLM in memory: a stock LLaVA that answers and streams."""

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    StoppingCriteria,
    TextIteratorStreamer,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vlm.device import CLOSE, LESS, enough_memory
from vlm.errors import UserError
from vlm.images import load_image, upright_rgb
from vlm.llava import parts
from vlm.llava.folder import load_folder, save_folder
from vlm.llava.parity import Fixture
from vlm.llms.precision import Device
from vlm.llms.prompt import PLACEHOLDER, History, Prompts, briefly, turns, without_examples

Picture = Image.Image | str | Path  # an image, or a file that holds one
Pictures = Picture | Sequence[Picture] | None  # one, several, or none


class VLM:
    """A stock `LlavaForConditionalGeneration` and `LlavaProcessor` that answer questions about an image."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, fixture: Fixture | None = None):
        self.model, self.processor, self.fixture = model, processor, fixture
        self.prompts = Prompts(processor, model.config.image_seq_length)
        self.prompt_ids = self.prompts.prompt_ids
        self.conversation_ids = self.prompts.conversation_ids

    @property
    def vision_tower(self) -> PreTrainedModel:
        return parts.vision_tower(self.model)

    @property
    def connector(self) -> LlavaMultiModalProjector:
        return parts.connector(self.model)

    @property
    def language_model(self) -> PreTrainedModel:
        return parts.language_model(self.model)

    def answer(
        self, image: Pictures, question: str, max_new_tokens: int = 64, history: History = (), short: bool = False
    ) -> str:
        """The greedy answer.

        image: one, a list, or None; `placed_images` says where those of a list stand. short: ask for a word or a
        phrase, as GQA, VQAv2 and POPE are trained and evaluated.

        Raises: UserError if the image cannot be read, a text is empty, no string or holds a control token, history is
        no list of pairs, or prompt and answer are longer than what the language model can read.
        """
        _check_length(max_new_tokens)
        inputs = self.inputs(image, question, history, short, max_new_tokens)
        ids = self._generate(inputs, max_new_tokens)
        return self.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def stream(
        self,
        image: Pictures,
        question: str,
        max_new_tokens: int = 64,
        history: History = (),
        short: bool = False,
        **options: Any,
    ) -> Generator[str, None, None]:
        """Yield the pieces of `answer` as they are made. Closing the iterator stops the generation.

        options: more arguments of transformers' `generate`, such as do_sample=True, temperature=0.7.
        """
        # An error is raised now, not with the first piece.
        _check_length(max_new_tokens)
        inputs = self.inputs(image, question, history, short, max_new_tokens)
        return self._pieces(inputs, max_new_tokens, options)

    def inputs(
        self, image: Pictures, question: str, history: History = (), short: bool = False, max_new_tokens: int = 0
    ) -> dict:
        """What `generate` is given for a question: input_ids and attention_mask int64[1, T], and pixel_values.

        max_new_tokens: for which the language model needs room behind them. Raises as `answer`.
        """
        pictures, prompt = self._prompt(image, question, history, short)
        room = self.room(max_new_tokens)
        if len(prompt) > room:
            raise UserError(
                f"the prompt is too long: {len(prompt)} tokens with its pictures, {max(room, 0)} are possible with an "
                f"answer of up to {max_new_tokens}: say less, or lower max_new_tokens"
            )
        ids = torch.tensor([prompt], device=self.model.device)
        # Every position is real: nothing is inferred from the pad id, which may also be a token of the prompt.
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pictures:
            opened = [load_image(each) if isinstance(each, str | Path) else upright_rgb(each) for each in pictures]
            pixels = self.processor.image_processor(images=opened, return_tensors="pt").pixel_values
            inputs["pixel_values"] = pixels.to(self.model.device)
        return inputs

    def room(self, max_new_tokens: int) -> int:
        """The tokens that a prompt may have: behind its last position the language model answers at random."""
        return self.language_model.config.max_position_embeddings - max_new_tokens

    def fitting(
        self, image: Pictures, question: str, max_new_tokens: int, history: History, short: bool = False
    ) -> History:
        """The last exchanges of `history` that there is room for beside the question and its answer."""
        room = self.room(max_new_tokens)
        while history and len(self._prompt(image, question, history, short)[1]) > room:
            history = history[1:]
        return history

    def _prompt(self, image: Pictures, question: str, history: History, short: bool) -> tuple[list[Picture], list[int]]:
        """The images as a list, and the ids of the prompt."""
        turns(question, history)  # before the texts are searched for `<image>`
        if short:  # earlier questions were asked so too
            for text in (question, *(asked for asked, _ in history)):
                self.prompts.check_text(text)  # with the sentence behind it, it would not be empty
            question, history = briefly(question), [(briefly(asked), answer) for asked, answer in history]
        pictures, count = placed_images(image, [*(asked for asked, _ in history), question])
        return pictures, self.prompt_ids(question, count, history=history)

    @torch.no_grad()
    def _generate(self, inputs: dict, max_new_tokens: int, **options: Any) -> torch.Tensor:
        return self.model.generate(**inputs, max_new_tokens=max_new_tokens, **{"do_sample": False, **options})

    def _pieces(self, inputs: dict, max_new_tokens: int, options: dict[str, Any]) -> Generator[str, None, None]:
        """Generate on a thread, and yield what its streamer brings."""
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = _Stop()
        errors: list[BaseException] = []

        def generate() -> None:
            try:
                self._generate(inputs, max_new_tokens, streamer=streamer, stopping_criteria=[stop], **options)
            except BaseException as error:  # raised again where the pieces are read
                errors.append(error)
                streamer.end()

        thread = threading.Thread(target=generate)  # no daemon: torch aborts if one runs at the end
        thread.start()
        try:
            yield from _stripped(streamer)
            if errors:
                raise errors.pop()  # else list, error and traceback would hold each other, and what was computed
        finally:
            stop.set()
            thread.join()

    def save(self, folder: str | Path) -> None:
        """Write a folder that `vlm.load` and stock Hugging Face tools read; see `vlm.llava.folder.save_folder`."""
        save_folder(folder, self.model, self.processor, self.fixture)


def placed_images(image: Pictures, questions: Sequence[str]) -> tuple[list[Picture], int | None]:
    """The images as a list, and what `prompt_ids` takes as `images`.

    The images of a list stand where the questions say `<image>`, or in front of the first question if none does. With
    one image that is not in a list, and with none, `<image>` is a word like others.
    Raises: UserError if there are more or fewer `<image>` than images in the list, or something is no picture.
    """
    if image is None:
        return [], 0
    several = isinstance(image, Iterable) and not isinstance(image, str | bytes | Image.Image)
    pictures: list[Any] = list(image) if several else [image]
    for each in pictures:
        _check_picture(each)
    if not several:
        return pictures, 1
    written = sum(question.count(PLACEHOLDER) for question in questions)
    if written not in (0, len(pictures)):
        raise UserError(
            f"{len(pictures)} images are given, but the text says {PLACEHOLDER} {written} times: "
            "say it once for each image, or not at all"
        )
    return pictures, None if written else len(pictures)


def _check_length(max_new_tokens: int) -> None:
    """Raises: UserError if no answer could be that long."""
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise UserError(f"max_new_tokens {max_new_tokens!r}: give a whole number, 1 or more")


def _check_picture(picture: Any) -> None:
    """Raises: UserError if it is neither the path of a file nor an image of PIL's that shows something."""
    if isinstance(picture, Image.Image) and 0 in picture.size:
        raise UserError(f"a picture of {picture.width} x {picture.height} pixels shows nothing: give another one")
    if not isinstance(picture, str | Path | Image.Image):
        raise UserError(f"{type(picture).__name__} is no picture: give a path, a PIL image, a list of these, or None")


def _stripped(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces that join to the stripped text: "  A", " bus ", "" -> "A", " bus".

    White space at the end of a piece waits for text to follow.
    """
    begun, space = False, ""
    for piece in pieces:
        piece = space + piece if begun else piece.lstrip()
        text = piece.rstrip()
        space = piece[len(text) :]
        if text:
            begun = True
            yield text


class _Stop(StoppingCriteria, threading.Event):
    """An event that, once set, ends a generation."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
        return torch.full((len(input_ids),), self.is_set(), device=input_ids.device)


def load(
    folder: str | Path,
    device: Device = None,
    dtype: torch.dtype | None = None,
    load_in: str | None = None,
    examples: bool = True,
) -> VLM:
    """Read a folder written by `VLM.save`, or such a model on the hub by its id: frozen, in eval mode.

    dtype: None is `default_dtype` of the device. load_in: "4bit" or "8bit" quantises the LLM with bitsandbytes, which
    then chooses the device. examples: False takes smollm2's worked examples out of its prompts, for a language model
    that is going to be trained.
    Raises: UserError if the folder is something else, a file is missing or damaged, the vision tower gives other
    features than it did when it was saved, there is no such device, or it has too little memory.
    """
    with enough_memory(lambda: f"while {folder} was loaded", lambda: LESS if load_in is None else CLOSE):
        model, processor, fixture = load_folder(folder, device, dtype, load_in)
    if not examples:
        processor.chat_template = processor.tokenizer.chat_template = without_examples(str(processor.chat_template))
    return VLM(model, processor, fixture)
