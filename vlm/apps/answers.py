"""One question of a chat and its answer, with its tokens and seconds."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from vlm.apps.pictures import Pictures
from vlm.apps.settings import ChatSettings
from vlm.apps.status import Status
from vlm.device import enough_memory
from vlm.errors import UserError, one_line
from vlm.llava.model import VLM
from vlm.llms.prompt import History

SAY_LESS = "ask about fewer pictures or with fewer words, or close what else uses the device"


@dataclass
class Answer:
    """What came of a question. error: one line, if the answer could not be made or ended early."""

    question: str
    pictures: Pictures
    text: str = ""
    error: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    first: float = 0.0  # seconds to the first token
    interrupted: bool = False

    def line(self) -> str:
        """The answer, or the error, without line breaks."""
        if self.error is not None:
            return f"error: {self.error}"
        parts = [part.strip() for part in self.text.splitlines()]
        return " ".join(part for part in parts if part)

    def as_json(self) -> str:
        """One line; everything outside ASCII is escaped, so that no character can break it."""
        record = {
            "question": self.question,
            "answer": self.text if self.error is None else None,
            "image": self.pictures.named(),
            "error": self.error,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }
        return json.dumps(record)

    def stats(self) -> str:
        """ "14 tokens in 0.80 s, the first after 0.31 s, then 26.5 tokens/s" """
        text = f"{self.tokens} tokens in {self.seconds:.2f} s"
        if self.tokens > 1 and self.seconds > self.first:
            rate = (self.tokens - 1) / (self.seconds - self.first)
            text += f", the first after {self.first:.2f} s, then {rate:.1f} tokens/s"
        return text


class Asking:
    """A VLM with the settings of a chat. `show` is given each piece of an answer as it is made."""

    def __init__(self, vlm: VLM, settings: ChatSettings):
        self.vlm, self.settings = vlm, settings
        self.asked = 0

    def answer(self, pictures: Pictures, question: str, history: History, show: Callable[[str], None]) -> Answer:
        """Ask; an error becomes `Answer.error`, Ctrl-C ends the answer and sets `Answer.interrupted`."""
        answer = Answer(question, pictures)
        counter = _Counter()
        start = time.monotonic()
        try:
            with enough_memory(lambda: "while this was answered", lambda: SAY_LESS):
                for piece in self._pieces(pictures, question, history, counter):
                    answer.text += piece
                    show(piece)
        except KeyboardInterrupt:
            answer.interrupted = True
        except (UserError, RuntimeError) as error:
            if not isinstance(error, UserError) and os.environ.get("LEVLM_DEBUG") == "1":
                raise
            answer.error = one_line(error, most=None)
        answer.seconds = time.monotonic() - start
        answer.tokens = len(counter.times)
        answer.first = counter.times[0] - start if counter.times else 0.0
        return answer

    def _pieces(self, pictures: Pictures, question: str, history: History, counter: "_Counter") -> Iterator[str]:
        """The pieces of the answer; while one is waited for, a status shows it."""
        with Status("answering"):
            limit, short = self.settings.max_new_tokens, self.settings.short
            options = {**self._sampling(), "logits_processor": LogitsProcessorList([counter])}
            shown = pictures.shown()
            history = self.vlm.fitting(shown, question, limit, history, short)
            pieces = self.vlm.stream(shown, question, limit, history, short, **options)
        with closing(pieces):
            text = "answering"
            while True:
                with Status(text):
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
                text = ""  # a bar behind what has been printed

    def _sampling(self) -> dict[str, Any]:
        """Arguments of `generate`. The random numbers of an answer depend on the seed and its number alone."""
        settings = self.settings
        self.asked += 1
        if settings.temperature == 0 or (settings.temperature is None and settings.top_p is None):
            return {}
        torch.manual_seed((settings.seed * 1_000_003 + self.asked) % 2**63)  # torch takes 64 bits
        # top_k: 0, or the library would keep only the 50 likeliest tokens.
        temperature = 1.0 if settings.temperature is None else settings.temperature
        top_p = 1.0 if settings.top_p is None else settings.top_p
        return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}


class _Counter(LogitsProcessor):
    """Notes when each token is chosen, and changes nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.times.append(time.monotonic())
        return scores
