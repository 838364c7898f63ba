"""What a conversation consists of, and its form: the same without its texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PLACEHOLDER = "<image>"  # marks in a text where an image stands
TEXT = "\0"  # marks in a form where a text stands
Turn = tuple[str, str | None]  # a question, and its answer; None where the answer is to be generated


class Talk(NamedTuple):
    """What a conversation consists of.

    turns: questions and answers; the last answer may be None, to be generated. images: how many images stand in front
    of the first question; None: each stands where a question says `<image>`. caption: text in the image's place.
    """

    turns: tuple[Turn, ...]
    images: int | None = 1
    caption: str | None = None
    system: str = ""

    def neutral(self) -> Talk:
        """The same with harmless texts."""

        def x(text: str) -> str:
            return PLACEHOLDER.join("x" for _ in text.split(PLACEHOLDER)) if self.images is None else "x"

        turns = tuple((x(question), None if answer is None else "x") for question, answer in self.turns)
        return Talk(turns, self.images, None if self.caption is None else "x", "x" if self.system else "")


class Shaped(NamedTuple):
    """A conversation's form, which has `TEXT` in each text's place, and the texts in their order, trimmed."""

    form: Talk
    texts: tuple[str, ...]


def shaped(talk: Talk, dropped: str = "") -> Shaped | None:
    """Take the texts out, as the template `turns.jinja` reads them; None if only the template itself can tell.

    dropped: a sentence that the template leaves out at the end of a question. With "Say a word."

        "Is it red? Say a word."                 is asked as "Is it red?"
        "Say a word."                            is asked as it is: nothing else is left
        "A in <image> or <image> Say a word."    None
    """
    texts: list[str] = []

    def taken(text: str) -> str:
        texts.append(text)
        return TEXT

    system = taken(talk.system.strip()) if talk.system else ""
    caption = taken(talk.caption.strip()) if talk.caption else talk.caption
    turns: list[Turn] = []
    for question, answer in talk.turns:
        # pieces[0]: the images in front; then texts, and images between two of them.
        pieces = question_pieces(question) if talk.images is None else ["", question.strip()]
        if dropped and pieces[-1].endswith(dropped):
            # Three pieces or more: an image stands between the last two. The template takes the sentence off the whole
            # question, and what it leaves may end with that image; the last piece alone does not show it.
            if len(pieces) > 2:
                return None
            pieces[-1] = pieces[-1][: -len(dropped)].strip() or pieces[-1]
        # White space alone between two images is no text: it stays in the form.
        patterns = [taken(piece) if piece.strip() else piece for piece in pieces[1:]]
        turns.append((pieces[0] + PLACEHOLDER.join(patterns), None if answer is None else taken(answer.strip())))
    return Shaped(Talk(tuple(turns), talk.images, caption, system), tuple(texts))


def question_pieces(question: str) -> list[str]:
    """A question with `<image>` in it -> the images in front of it, and what stands between the further ones.

    '<image>\\nQ', 'Q\\n<image>'         ['<image>', 'Q']
    '<image>'                           ['<image>', '']
    'Is A in <image> or <image> ?'      ['', 'Is A in ', ' or ', ' ?']
    """
    pieces = question.split(PLACEHOLDER)
    texts = [piece.strip() for piece in pieces if piece.strip()]
    if len(texts) < 2:
        return [PLACEHOLDER * (len(pieces) - 1), "".join(texts)]
    leading = next(number for number, piece in enumerate(pieces) if piece.strip())
    kept = pieces[leading:]
    kept[0], kept[-1] = kept[0].lstrip(), kept[-1].rstrip()
    return [PLACEHOLDER * leading, *kept]


def with_texts(form: Talk, texts: Sequence[str]) -> Talk:
    """The conversation of this form that says these texts."""
    waiting = iter(texts)

    def fill(pattern: str) -> str:
        first, *rest = pattern.split(TEXT)
        return first + "".join(next(waiting) + piece for piece in rest)

    system = fill(form.system)
    caption = None if form.caption is None else fill(form.caption)
    turns = tuple((fill(question), None if answer is None else fill(answer)) for question, answer in form.turns)
    return Talk(turns, form.images, caption, system)
