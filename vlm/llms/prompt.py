"""Prompts: one chat template for training, chat and stock tools, and the token ids that it gives.

The template that a VLM is saved with has two parts. `turns.jinja` splits each message into picture and text. A wording
follows: LLaVA's (`instruct.jinja`) in front of the language model's own template, or a text format of our own
(`smollm2.jinja`) for a model that is too small to follow its chat format.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

from transformers import LlavaProcessor

from vlm.errors import UserError

History = Sequence[tuple[str, str]]  # earlier questions and their answers, oldest first
Turn = tuple[str, str | None]  # a question, and its answer; None where the answer is to be generated


def build_template(image_token: str, native: str | None = None, wording: Sequence[str] = ("instruct",)) -> str:
    """Join the Jinja chat template of a VLM. wording: files of `vlm/llms/templates`; native: the LLM's own template."""
    parts = [_read(name) for name in ("turns", *wording)]
    return "{%- set image_token = " + json.dumps(image_token) + " -%}\n" + "".join(parts) + (native or "")


def without_examples(template: str) -> str:
    """Remove smollm2's worked examples from a VLM's chat template: a language model that is trained needs none."""
    return template.replace(_read("smollm2_examples"), "")


def _read(name: str) -> str:
    return (files("vlm.llms") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


class Prompts:
    """Token ids of prompts and conversations, as the stock processor renders its chat template.

    An image is `slots` copies of the image token.

    Text never becomes control tokens, since it could then end its turn and speak for the other side. Take a model whose
    turns end with <|im_end|>. "Red?<|im_end|>" is refused by name. A tokenizer may also normalise another spelling,
    such as full-width letters, into that token. So a conversation must have the control tokens that the template
    itself puts around a harmless text, and no others:
        around "x"                   <|im_start|> <|im_end|> <|im_start|>
        around "Red?"                <|im_start|> <|im_end|> <|im_start|>                the same: allowed
        around the other spelling    <|im_start|> <|im_end|> <|im_end|> <|im_start|>     one more: refused
    """

    def __init__(self, processor: LlavaProcessor, slots: int):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.slots = slots
        # White space in the added vocabulary (some tokenizers have it) is text, not control.
        added = self.tokenizer.get_added_vocab() | {processor.image_token: processor.image_token_id}
        self._control = {token: index for token, index in added.items() if token.strip()}
        # The token that ends a turn may be a newline, which a text may hold as well.
        visible = [index for index in self._control.values() if self.tokenizer.decode([index]).strip()]
        self._control_ids = frozenset(visible)
        self._heads: dict[str, list[int]] = {}  # text before the image -> its ids; the same for most prompts
        self._expected: dict[tuple, list[int]] = {}  # form of a conversation -> the template's own control tokens
        plain = self.tokenizer("a", add_special_tokens=False).input_ids
        if self.tokenizer("a").input_ids[-len(plain) :] != plain:
            raise UserError(
                "this tokenizer appends a token to every text, also to prompts: set its add_eos_token to false"
            )

    def prompt_ids(
        self, question: str, image: bool = True, caption: str | None = None, history: History = ()
    ) -> list[int]:
        """Ids up to where the answer begins; the image's slots are in place.

        caption: text in the image's place, for a text-only ceiling. history: the picture belongs to its first question.
        Raises: UserError if a text is empty or holds a control token.
        """
        return self._ids([*history, (question, None)], image, caption)

    def conversation_ids(self, question: str, answer: str) -> tuple[list[int], int]:
        """Ids of prompt and answer through the token that ends the answer's turn, and the number of prompt ids.

        Raises: UserError if the template's prompt does not begin its full conversation, or a text cannot be used.
        """
        prompt = self._ids([(question, None)], image=True, caption=None)
        full = self._ids([(question, answer)], image=True, caption=None)  # prompt, answer, tail
        tail = self.end_ids
        begins, ends = full[: len(prompt)] == prompt, full[-len(tail) :] == tail
        if not begins or not ends or len(full) <= len(prompt) + len(tail):
            raise UserError(
                "this chat template cannot be trained on: its prompt is not the beginning of its full conversation, "
                f"or its turns end differently (answer {answer!r}); give a model with a plain chat template"
            )
        return full[: len(full) - len(tail) + 1], len(prompt)

    @cached_property
    def end_ids(self) -> list[int]:
        """What the template puts after an answer; the first of these ids ends the answer and stops generation."""
        one, two = (self._encode(self._render([("Q", answer)], False, None), False) for answer in ("yes", "no"))
        count = 0  # of the last ids that conversations with different answers share
        while count < min(len(one), len(two)) and one[-1 - count] == two[-1 - count]:
            count += 1
        if count == 0:
            raise UserError("this chat template puts no token after an answer, so that no answer could end")
        return one[-count:]

    def _ids(self, turns: list[Turn], image: bool, caption: str | None) -> list[int]:
        """Ids of a conversation whose texts have passed both checks."""
        if caption:
            self._check_text(caption)
        for question, answer in turns:
            self._check_text(question)
            if answer is not None:
                self._check_text(answer)
        ids = self._encode(self._render(turns, image, caption), image)
        form = (len(turns), turns[-1][1] is None, image, caption is None)
        if form not in self._expected:
            neutral: list[Turn] = [("x", None if answer is None else "x") for _, answer in turns]
            template = self._encode(self._render(neutral, image, None if caption is None else "x"), image)
            self._expected[form] = self._controls(template)
        if self._controls(ids) != self._expected[form]:
            raise UserError(f"the text {turns[-1][0]!r} turns into control tokens of this model: write it differently")
        return ids

    def allows(self, text: str) -> bool:
        """Whether `text` may stand in a prompt."""
        return bool(text.strip()) and not any(token in text for token in self._control)

    def _check_text(self, text: str) -> None:
        if not text.strip():
            raise UserError("a question or answer is empty: give some text")
        if found := [token for token in self._control if token in text]:
            raise UserError(f"the text {text!r} contains the control token {found[0]}: leave it out")

    def _controls(self, ids: list[int]) -> list[int]:
        return [index for index in ids if index in self._control_ids]

    def _render(self, turns: list[Turn], image: bool, caption: str | None) -> str:
        """The conversation as text, with one image token if there is an image."""
        messages: list[dict[str, Any]] = []
        for question, answer in turns:
            content = [{"type": "text", "text": question}]
            if not messages and caption is not None:
                content.insert(0, {"type": "text", "text": caption})
            if not messages and image:
                content.insert(0, {"type": "image"})
            messages.append({"role": "user", "content": content})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=turns[-1][1] is None)

    def _encode(self, text: str, image: bool) -> list[int]:
        """The ids of `apply_chat_template(tokenize=True)`, in less time.

        A tokenizer cuts its added tokens out before it reads the text around them. So the text before the image can be
        tokenised once for all prompts, and one image token can be replaced by `slots` of them afterwards.
        """
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))  # the template may have written it already
        try:
            if not image:
                return self.tokenizer(text, add_special_tokens=special).input_ids
            token, slot = self.processor.image_token, self.processor.image_token_id
            head, _, tail = text.partition(token)
            if head not in self._heads:
                ids = self.tokenizer(head + token, add_special_tokens=special).input_ids
                self._heads[head] = ids[: ids.index(slot)]
            # The token goes in front of the tail, and off again: some tokenizers treat the start of a text differently.
            tail_ids = self.tokenizer(token + tail, add_special_tokens=False).input_ids[1:]
            return self._heads[head] + [slot] * self.slots + tail_ids
        except (TypeError, UnicodeError):
            raise UserError(f"not valid Unicode text: {text[-80:]!a}") from None
