"""A chat template split once into constant pieces, so that a prompt costs no rendering and its texts one tokenisation.

A frame is what a template writes round the texts of a conversation of some form. Here `{}` stands for a text, | for the
added tokens at which a tokenizer cuts a text before it reads it: what lies between two of them is tokenised alone.

    |<|im_start|>|user\\n|<|image_pad|>|\\n{}|<|im_end|>|\\n|<|im_start|>|assistant\\n{}|<|im_end|>|\\n

So only two segments, `\\n{}` and `assistant\\n{}`, wait for their texts; the ids of all others are known. That a
template does nothing with its texts but write them down is tried with several very different ones (`STYLES`), and a
text that holds a word which the template looks for is left to the template itself (`Reads`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2 import Environment, TemplateError, nodes

# What a template calls with strings that it does not look for in a text.
WRITERS = ("join", "default", "d", "get", "raise_exception", "namespace", "strftime_now", "tojson")
KEPT_SEGMENTS, KEPT_LETTERS = 50_000, 48  # short segments whose ids are kept: answers come again and again
# Texts that a template which changes its texts would change: case, white space, markup, quotes, length.
STYLES: tuple[Callable[[int], str], ...] = (
    lambda number: f"Alpha{number}omega",
    lambda number: f'{number}: "<b>O\'Neil</b>" & 3 < 5?\n\n  * ünÏ  漢字\t\\n {{{{ x }}}} {{% if %}} #{number}.',
    lambda number: chr(0xE000 + number),
    lambda number: f"{number} begins " + "many Words " * 99 + f"and ends {number}.",
)


@dataclass(frozen=True)
class Reads:
    """Strings that a template looks for in its texts; a text with one of them may be written in another way.

    inside: looked for anywhere in a text. whole: a whole text is compared with them. edges: letters at a text's ends.
    """

    inside: tuple[str, ...]
    whole: frozenset[str]
    edges: frozenset[str]

    @classmethod
    def of(cls, template: str) -> "Reads | None":
        """None if the template cannot be parsed here."""
        try:
            tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
        except TemplateError:
            return None
        names = {node.arg for node in tree.find_all(nodes.Getitem)}  # message['role']: looks for no text
        inside: set[str] = set()
        whole: set[str] = set()
        edges: set[str] = set()

        def strings(parts: Iterable[nodes.Node]) -> set[str]:
            found = [const for part in parts for const in (part, *part.find_all(nodes.Const))]
            return {
                const.value
                for const in found
                if isinstance(const, nodes.Const) and const not in names and isinstance(const.value, str)
            }

        for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test, nodes.Assign)):
            if isinstance(node, nodes.Compare):
                among = any(operand.op in ("in", "notin") for operand in node.ops)
                # {% if content in 'yes or no' %}: the parts of a constant are not listed.
                if among and any(isinstance(operand.expr, nodes.Const) for operand in node.ops):
                    return None
                if among and isinstance(node.expr, nodes.Const):  # {% if '</think>' in content %}
                    inside |= strings([node])
                else:  # {% if content == 'x' %}, {% if content in ['x', 'y'] %}
                    whole |= strings([node])
            elif isinstance(node, nodes.Assign):
                # {% set stop = '</think>' %}: a later line may look for it, {% if stop in content %}.
                if isinstance(node.node, (nodes.Const, nodes.List, nodes.Tuple, nodes.CondExpr)):
                    inside |= strings([node.node])
            else:
                # The name of a filter or a test; of a method, content.strip(); of a function, namespace().
                name = getattr(node, "name", None) or getattr(node.node, "attr", None) or getattr(node.node, "name", "")
                if name in ("trim", "strip", "lstrip", "rstrip"):  # content.strip('\n'): each letter by itself
                    edges.update("".join(strings(node.args)))
                elif name not in WRITERS:  # content.split('</think>'), content | replace('</think>', '')
                    inside |= strings(node.args)
        return cls(tuple(sorted(inside - {""})), frozenset(whole), frozenset(edges))

    def found_in(self, text: str) -> bool:
        if text in self.whole or any(word in text for word in self.inside):
            return True
        return bool(text) and (text[0] in self.edges or text[-1] in self.edges)


class Segment(NamedTuple):
    """What stands between two added tokens: pieces[0] + a text + pieces[1] + ... ; controls: added tokens inside."""

    pieces: tuple[str, ...]
    left: str
    right: str
    controls: tuple[int, ...]

    def written(self, texts: Sequence[str]) -> str:
        parts = [self.left, self.pieces[0]]
        for text, piece in zip(texts, self.pieces[1:]):
            parts += text, piece
        return "".join([*parts, self.right])


@dataclass(frozen=True)
class Frame:
    """Ids and segments in turn: ids[0], segments[0], ids[1], ... A segment takes `len(pieces) - 1` of the texts."""

    ids: tuple[tuple[int, ...], ...]
    segments: tuple[Segment, ...]

    def written(self, texts: Sequence[str]) -> list[str]:
        """Each segment with its texts, between its two added tokens."""
        out, start = [], 0
        for segment in self.segments:
            end = start + len(segment.pieces) - 1
            out.append(segment.written(texts[start:end]))
            start = end
        return out


class Read(NamedTuple):
    """A frame's ids with its texts in it; each segment is at ids[start:end] of its place."""

    ids: list[int]
    places: list[tuple[int, int]]


@dataclass
class Framer:
    """Makes frames for one tokenizer. `ids_of` reads a frame's segments; all of a batch in one call."""

    tokenizer: Any
    controls: frozenset[int]
    image_token: str
    image_ids: list[int]
    _known: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend = getattr(self.tokenizer, "backend_tokenizer", None)
        added = self.backend.get_added_tokens_decoder() if self.backend is not None else {}
        # Those that the tokenizer finds in the text as it is written, whatever stands beside them.
        self.cuts = {
            str(token.content): index
            for index, token in added.items()
            if token.content and not (token.normalized or token.single_word)
        }
        every = [str(token.content) for token in added.values() if token.content]
        self.usable = self.image_token in self.cuts and not any(_overlap(cut, every) for cut in self.cuts)
        longest_first = sorted(self.cuts, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if self.usable else None

    def frame(self, render: Callable[[Sequence[str]], str], count: int) -> Frame | None:
        """The frame of what `render` writes of `count` texts; None if it is not constant round them."""
        splits = {_split(render(texts), texts) for texts in ([style(n) for n in range(count)] for style in STYLES)}
        pieces = next(iter(splits)) if len(splits) == 1 else None
        return None if pieces is None else self._cut_up(pieces)

    def _cut_up(self, pieces: Sequence[str]) -> Frame | None:
        assert self._cut is not None
        bos = self.tokenizer.bos_token
        known: list[list[int]] = [[]]
        if not (bos and pieces[0].startswith(bos)):  # else the template has written it
            plain = self.tokenizer("a", add_special_tokens=False).input_ids
            known[0] += self.tokenizer("a").input_ids[: -len(plain)]
        segments: list[Segment] = []
        waiting, left = [""], ""  # the segment that is being read, and the added token before it

        def close(right: str) -> None:
            if len(waiting) > 1:
                [harmless] = self.read([Segment(tuple(waiting), left, right, ()).written(["x"] * (len(waiting) - 1))])
                inner = harmless[bool(left) : len(harmless) - bool(right)]
                segments.append(Segment(tuple(waiting), left, right, tuple(self._controls(inner))))
                known.append([])
            elif waiting[0]:
                [ids] = self.read([left + waiting[0] + right])
                known[-1].extend(ids[bool(left) : len(ids) - bool(right)])

        for number, piece in enumerate(pieces):
            if number:
                waiting.append("")
            for at, part in enumerate(self._cut.split(piece)):
                if at % 2 == 0:
                    waiting[-1] += part
                    continue
                close(part)
                known[-1].extend(self.image_ids if part == self.image_token else [self.cuts[part]])
                waiting, left = [""], part
        close("")
        return Frame(tuple(map(tuple, known)), tuple(segments))

    def _controls(self, ids: Iterable[int]) -> list[int]:
        return [index for index in ids if index in self.controls]

    def read(self, texts: list[str]) -> list[list[int]]:
        """Tokenise texts in one call, without anything in front or behind."""
        backend: Any = self.backend
        # The stock processor may have left any of them on. Another thread may be encoding: what is right is not set.
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens:
            backend.encode_special_tokens = False
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def ids_of(self, asked: Sequence[tuple[Frame, Sequence[str]]]) -> list[Read | None]:
        """The ids of each frame with its texts; None if a text has become an added token, or taken one away."""
        written = [frame.written(texts) for frame, texts in asked]
        if len(self._known) > KEPT_SEGMENTS:
            self._known = {}  # not cleared: another thread may be about to read the old one
        known = self._known
        new = list(dict.fromkeys(text for texts in written for text in texts if text not in known))
        read = dict(zip(new, self.read(new))) if new else {}
        known.update((text, ids) for text, ids in read.items() if len(text) <= KEPT_LETTERS)
        return [
            self._joined(frame, [read[text] if text in read else known[text] for text in texts])
            for (frame, _), texts in zip(asked, written)
        ]

    def _joined(self, frame: Frame, segments: Sequence[list[int]]) -> Read | None:
        ids, places = list(frame.ids[0]), []
        for segment, read, behind in zip(frame.segments, segments, frame.ids[1:]):
            inner = self._within(segment, read)
            if inner is None:
                return None
            places.append((len(ids), len(ids) + len(inner)))
            ids += inner
            ids += behind
        return Read(ids, places)

    def _within(self, segment: Segment, ids: list[int]) -> list[int] | None:
        """A segment's ids without the added tokens at its sides, which are still there and the only ones of theirs."""
        if segment.left:
            if not ids or ids[0] != self.cuts[segment.left]:
                return None
            ids = ids[1:]
        if segment.right:
            if not ids or ids[-1] != self.cuts[segment.right]:
                return None
            ids = ids[:-1]
        clean = self.controls.isdisjoint(ids)
        if clean and not segment.controls:
            return ids
        return ids if tuple(self._controls(ids)) == segment.controls else None


def _split(rendered: str, texts: Sequence[str]) -> tuple[str, ...] | None:
    """What stands round the texts, each of which is there once and in order; None if one is not."""
    pieces, start = [], 0
    for text in texts:
        at = rendered.find(text, start)
        if at < 0 or rendered.count(text) != 1:
            return None
        pieces.append(rendered[start:at])
        start = at + len(text)
    return (*pieces, rendered[start:])


def _overlap(cut: str, tokens: Iterable[str]) -> bool:
    """Whether another added token could begin before `cut` in a text and swallow its beginning."""
    return any(
        token[at:].startswith(cut) or cut.startswith(token[at:])
        for token in tokens
        for at in range(1, len(token))
        if token[at] == cut[0]
    )
