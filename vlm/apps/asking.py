"""Questions as stock tools ask them: a batch of plain strings, in which `<image>` stands for a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from vlm.images import upright_rgb
from vlm.llava.model import load
from vlm.llms.forms import PLACEHOLDER
from vlm.llms.precision import check_place, chosen_device, chosen_dtype

# What a benchmark may ask of generation. Everything else, such as where an answer ends, is the folder's own.
DECODING = ("max_new_tokens", "num_beams", "temperature", "top_p", "top_k")


class StringPrompts:
    """A VLM folder that answers batches of strings with the stock processor and `generate`."""

    def __init__(
        self, folder: str, device: str | None = None, precision: str | None = None, load_in: str | None = None
    ):
        """Load as `vlm.load` does; precision: "fp32" or "bf16", by default the device's.

        Raises: UserError as `vlm.load`, or if a quantised model would not be on the device that is named.
        """
        chosen = chosen_device(device)
        check_place(load_in, device, chosen)
        self.vlm = load(folder, chosen, chosen_dtype(precision, chosen), load_in)

    @torch.inference_mode()
    def answers(
        self, questions: Sequence[str], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[str]:
        """One answer a question. images: a question's pictures, in the order of its placeholders.

        Pictures that a question has no `<image>` for come in front of it. If it says `<image>` more often than there
        are pictures, all come in front and `<image>` is a word. Control tokens are not refused: a task may ask what it
        likes, and one question does not end an evaluation. settings: `max_new_tokens`, `num_beams`, `temperature`
        (above 0: sample), `top_p`, `top_k`, and `until`, texts that end an answer.
        """
        processor: Any = self.vlm.processor
        prompts = [self._prompt(question, len(shown)) for question, shown in zip(questions, images)]
        pictures = [upright_rgb(picture) for shown in images for picture in shown]
        inputs = processor(text=prompts, images=pictures or None, padding=True, return_tensors="pt")
        ids = self.vlm.model.generate(**inputs.to(self.vlm.model.device), **_decoding(settings))
        new = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [_cut(answer, settings.get("until")) for answer in new]

    def _prompt(self, question: str, pictures: int) -> str:
        missing = pictures - question.count(PLACEHOLDER)
        content: str | list[dict[str, str]] = question  # in a plain string the template reads `<image>` as a picture
        if missing > 0:
            content = " ".join([PLACEHOLDER] * missing) + "\n" + question
        elif missing < 0:
            content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        messages: Any = [{"role": "user", "content": content}]
        return self.vlm.processor.apply_chat_template(messages, add_generation_prompt=True)


def _decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `generate` is given: greedy unless a temperature above 0 is asked for."""
    chosen = {name: settings[name] for name in DECODING if settings.get(name) is not None}
    sampled = chosen.get("temperature", 0) > 0
    if not sampled:  # they would be ignored, with a warning
        chosen = {name: value for name, value in chosen.items() if name not in ("temperature", "top_p", "top_k")}
    return {"max_new_tokens": 1024, **chosen, "do_sample": sampled}


def _cut(answer: str, until: str | Sequence[str] | None) -> str:
    """The answer up to the first of the texts that end it, without white space around it."""
    answer = answer.strip()
    for end in [until] if isinstance(until, str) else until or []:
        answer = answer.split(end)[0] if end else answer
    return answer.strip()
