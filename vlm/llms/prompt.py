"""Prompts: one chat template for training, chat and stock tools, and the token ids that it gives.

The template that a VLM is saved with has two parts. `turns.jinja` splits each message into picture and text. A wording
follows: LLaVA's (`instruct.jinja`) in front of the language model's own template, or a text format of our own
(`smollm2.jinja`) for a model that is too small to follow its chat format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vlm.errors import UserError
from vlm.llms.forms import PLACEHOLDER, Talk, Turn
from vlm.llms.frames import Framer
from vlm.llms.lessons import Frames, Lesson, one_sequence

if TYPE_CHECKING:  # seconds, and who needs the constants alone need not wait
    from transformers import LlavaProcessor

History = Sequence[tuple[str, str]]  # earlier questions and their answers, oldest first

# What LLaVA writes behind the questions of GQA, VQAv2 and POPE (arXiv:2310.03744, section 3.2).
SHORT_ANSWER = "Answer the question using a single word or phrase."

# smollm2's worked examples, an earlier version's too: from the first words of their file to those of its wording.
_EXAMPLES = re.compile(r"\{#- What SmolLM2-135M reads.*(?=\{# A plain text format)", re.DOTALL)

CACHED_HEADS = 64  # texts before the first image whose ids are kept


def turns(question: str, history: History = (), answer: str | None = None) -> tuple[Turn, ...]:
    """Earlier questions and answers, and the question with its answer, if it has one.

    Raises: UserError if history is something else than pairs of two strings, or another text is no string. A mapping,
    such as a message {"role": ..., "content": ...}, would be read by its keys.
    """
    for text in (question, "" if answer is None else answer):
        if not isinstance(text, str):
            raise UserError(f"a question or answer is text, not {type(text).__name__}: give a string")
    is_list = isinstance(history, Sequence) and not isinstance(history, str | bytes)
    for pair in history if is_list else [history]:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            shown = repr(pair)[:80]
            raise UserError(f"history is a list of pairs (question, answer), both strings, oldest first; not {shown}")
    return (*((asked, answered) for asked, answered in history), (question, answer))


def briefly(question: str) -> str:
    """The question as LLaVA asks it where a short answer is wanted."""
    return f"{question}\n{SHORT_ANSWER}"


def build_template(image_token: str, native: str | None = None, wording: Sequence[str] = ("instruct",)) -> str:
    """Join the Jinja chat template of a VLM. wording: files of `vlm/llms/templates`; native: the LLM's own template."""
    parts = [_read(name) for name in ("turns", *wording)]
    return "{%- set image_token = " + json.dumps(image_token) + " -%}\n" + "".join(parts) + (native or "")


def without_examples(template: str) -> str:
    """Remove smollm2's worked examples from a VLM's chat template: a language model that is trained needs none."""
    return _EXAMPLES.sub("", template)


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
        """Raises: UserError if the tokenizer appends a token to every text."""
        self.processor, self.tokenizer, self.slots = processor, processor.tokenizer, slots
        _refuse_appending(self.tokenizer)
        self._control = _control_tokens(processor)
        self._control_ids = _visible_ids(self.tokenizer, self._control)
        self._initials = frozenset(token[0] for token in self._control)
        self._heads: dict[str, list[int]] = {}  # text before the first image -> its ids; the same for most prompts
        self._expected: dict[Talk, list[int]] = {}  # neutral conversation -> the template's own control tokens
        self._frames = self._make_frames()

    def _make_frames(self) -> Frames:
        processor, template = self.processor, str(self.processor.chat_template)
        framer = Framer(
            self.tokenizer, self._control_ids, processor.image_token, [processor.image_token_id] * self.slots
        )
        splitting, instruct, examples, smollm2 = map(_read, ("turns", "instruct", "smollm2_examples", "smollm2"))
        dropped = SHORT_ANSWER if examples in template else ""  # smollm2's examples ask for short answers themselves
        own = (splitting, instruct, examples, smollm2)
        return Frames(template, own, dropped, framer, self._render, lambda: self.end_ids)

    def prompt_ids(
        self, question: str, images: int | None = 1, caption: str | None = None, history: History = ()
    ) -> list[int]:
        """Ids up to where the answer begins; the images' slots are in place.

        images: their number, in front of the first question; None: one where each `<image>` stands in a question.
        caption: text in the image's place, for a text-only ceiling. history: earlier questions and answers.
        Raises: UserError if a text is empty or holds a control token.
        """
        return self._all_ids([Talk(turns(question, history), images, caption)])[0]

    def conversation_ids(self, question: str, answer: str, history: History = ()) -> tuple[list[int], int]:
        """Ids of prompt and answer through the token that ends the answer's turn, and the number of prompt ids.

        One image, in front of the first question. history: earlier questions and answers.
        Raises: UserError if the template's prompt does not begin its full conversation, or a text cannot be used.
        """
        return self._taught([Talk(turns(question, history, answer))])[0]

    def lessons(self, talks: Sequence[Talk]) -> list[list[Lesson]]:
        """Ids of conversations that are trained on, tokenised in one call.

        Of a template that only ever goes on behind what it has written, a conversation is one lesson. Others write an
        earlier turn in another way than the last one: there every answer is a lesson of its own.
        Raises: UserError as `conversation_ids`.
        """
        for talk in talks:
            self._check_texts(talk)
        found: list[list[Lesson] | None] = self._frames.lessons(talks)
        for number, talk in enumerate(talks):
            if found[number] is None:
                parts = [talk._replace(turns=talk.turns[: count + 1]) for count in range(len(talk.turns))]
                found[number] = one_sequence([Lesson(ids, ((at, len(ids)),)) for ids, at in self._taught(parts)])
        return [lessons for lessons in found if lessons is not None]

    def _taught(self, talks: Sequence[Talk]) -> list[tuple[list[int], int]]:
        """Of each conversation the ids through the end of its last answer, and how many of them ask for that."""
        prompts = [talk._replace(turns=(*talk.turns[:-1], (talk.turns[-1][0], None))) for talk in talks]
        both, tail, taught = self._all_ids([*prompts, *talks]), self.end_ids, []
        for talk, prompt, full in zip(talks, both, both[len(talks) :]):  # full: prompt, answer, tail
            begins, ends = full[: len(prompt)] == prompt, full[-len(tail) :] == tail
            if not begins or not ends or len(full) <= len(prompt) + len(tail):
                raise UserError(
                    "this chat template cannot be trained on: its prompt is not the beginning of its full "
                    f"conversation, or its turns end differently (answer {talk.turns[-1][1]!r}); give a model with a "
                    "plain chat template"
                )
            taught.append((full[: len(full) - len(tail) + 1], len(prompt)))
        return taught

    @cached_property
    def end_ids(self) -> list[int]:
        """What the template puts after an answer; the first of these ids ends the answer and stops generation."""
        one, two = (self._encode(self._render(Talk((("Q", answer),), images=0))) for answer in ("yes", "no"))
        count = 0  # of the last ids that conversations with different answers share
        while count < min(len(one), len(two)) and one[-1 - count] == two[-1 - count]:
            count += 1
        if count == 0:
            raise UserError("this chat template puts no token after an answer, so that no answer could end")
        return one[-count:]

    def _all_ids(self, talks: Sequence[Talk]) -> list[list[int]]:
        """Ids of conversations whose texts have passed both checks."""
        for talk in talks:
            self._check_texts(talk)
        found = self._frames.ids(talks)
        return [self._ids(talk) if read is None else read.ids for talk, read in zip(talks, found)]

    def _check_texts(self, talk: Talk) -> None:
        """Raises: UserError if a text is empty or holds a control token by its name."""
        if talk.caption:
            self.check_text(talk.caption)
        if talk.system:
            self.check_text(talk.system)
        for question, answer in talk.turns:
            # A question may be a picture alone.
            self.check_text(question if talk.images is not None else question.replace(PLACEHOLDER, "x"))
            if answer is not None:
                self.check_text(answer)

    def _ids(self, talk: Talk) -> list[int]:
        """The ids of one conversation, rendered whole."""
        ids = self._encode(self._render(talk))
        form = talk.neutral()
        if form not in self._expected:
            self._expected[form] = self._controls(self._encode(self._render(form)))
        if self._controls(ids) != self._expected[form]:
            text = talk.turns[-1][0]
            raise UserError(f"the text {text!r} turns into control tokens of this model: write it differently")
        return ids

    def allows(self, text: str) -> bool:
        """Whether `text` may stand in a prompt."""
        return bool(text.strip()) and not self._named(text)

    def refusal(self, text: str) -> str:
        """Why no prompt may hold `text`, in two words, or "". Unlike `allows`, it asks the tokenizer as well."""
        if not text.strip():
            return "empty text"
        if not self.allows(text):
            return "control token"
        if not text.isascii():  # what a normaliser could make a control token of, or no text at all
            try:
                text.encode()
                self.prompt_ids(text, images=0)
            except UnicodeEncodeError:
                return "invalid Unicode"
            except UserError:
                return "control token"
        return ""

    def check_text(self, text: str) -> None:
        """Raises: UserError if the text is empty, no Unicode, or holds a control token by its name."""
        if not text.strip():
            raise UserError("a question or answer is empty: give some text")
        try:
            text.encode()
        except UnicodeEncodeError:
            # Lone surrogates: bytes of a pipe or a command line that are no UTF-8, or one half of a pair in JSON.
            raise UserError(f"not valid Unicode text: {text!a}") from None
        if found := self._named(text):
            raise UserError(f"the text {text!r} contains the control token {found[0]}: leave it out")

    def _named(self, text: str) -> list[str]:
        """The control tokens that a text has by name."""
        if self._initials.isdisjoint(text):  # nearly every text
            return []
        return [token for token in self._control if token in text]

    def _controls(self, ids: list[int]) -> list[int]:
        return [index for index in ids if index in self._control_ids]

    def _render(self, talk: Talk) -> str:
        """The conversation as text, with one image token for each image."""
        messages: list[dict[str, Any]] = []
        if talk.system:
            messages.append({"role": "system", "content": [{"type": "text", "text": talk.system}]})
        for number, (question, answer) in enumerate(talk.turns):
            content: list[dict[str, str]] = [{"type": "text", "text": question}]
            if number == 0 and talk.caption is not None:
                content.insert(0, {"type": "text", "text": talk.caption})
            if number == 0 and talk.images:
                content = [{"type": "image"}] * talk.images + content
            # In a plain string the template reads `<image>` as an image, in a text of a list as a word.
            messages.append({"role": "user", "content": question if talk.images is None else content})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=talk.turns[-1][1] is None)

    def _encode(self, text: str) -> list[int]:
        """The ids of `apply_chat_template(tokenize=True)`, in less time.

        A tokenizer cuts its added tokens out before it reads the text around them. So the text before the image can be
        tokenised once for all prompts, and an image token can be replaced by `slots` of them afterwards.
        """
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))  # the template may have written it already
        token, slot = self.processor.image_token, self.processor.image_token_id
        head, *rest = text.split(token)
        if not rest:
            return self.tokenizer(text, add_special_tokens=special).input_ids
        heads = self._heads
        if head not in heads:
            ids = self.tokenizer(head + token, add_special_tokens=special).input_ids
            if len(heads) >= CACHED_HEADS:
                heads = self._heads = {}  # not cleared: another thread may be about to read the old one
            heads[head] = ids[: ids.index(slot)]
        whole = list(heads[head])
        for part in rest:
            # The token goes in front, and off again: some tokenizers treat the start of a text differently.
            whole += [slot] * self.slots + self.tokenizer(token + part, add_special_tokens=False).input_ids[1:]
        return whole


def _refuse_appending(tokenizer: Any) -> None:
    plain = tokenizer("a", add_special_tokens=False).input_ids
    if tokenizer("a").input_ids[-len(plain) :] != plain:
        raise UserError("this tokenizer appends a token to every text, also to prompts: set its add_eos_token to false")


def _control_tokens(processor: LlavaProcessor) -> dict[str, int]:
    """The added tokens and their ids. White space among them (some tokenizers have it) is text, not control."""
    added = processor.tokenizer.get_added_vocab() | {processor.image_token: processor.image_token_id}
    return {token: index for token, index in added.items() if token.strip()}


def _visible_ids(tokenizer: Any, control: dict[str, int]) -> frozenset[int]:
    """The ids of control tokens that no text has. The token that ends a turn may be a newline: a text may hold it."""
    return frozenset(index for index in control.values() if tokenizer.decode([index]).strip())
