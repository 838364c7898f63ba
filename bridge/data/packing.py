"""Isolated conversations about the same images -> rows -> padded batches of token ids, positions, labels, masks.

The conversations of an image are merged into a tree: what they begin with in common, the image above all, is there
once, and each token sees its own conversation's past and nothing else. Written down in depth-first order, a token is
described by the place where its subtree ends: token i sees token j if j <= i < ends[j].

The opening is the text before the first image. It is the same in nearly every prompt, so that its keys and values are
computed once (`opening_ids`), and a row that begins with it holds none of it.

Worked example. Two conversations about one image; C is a token of the opening, which the row sees (`opening_seen=2`)
and does not hold, I an image slot, `.` the token that ends a turn:

    C C I I is it a | x .           question "is it a", answer "x"
    C C I I is b    | y z .         question "is b",    answer "y z"

    place      0  1  2   3  4  5   6  7  8
    ids        I  I  is  b  y  z   it a  x
    positions  2  3  4   5  6  7   5  6  7        a token's place in its own conversation
    ends       9  9  9   6  6  6   9  9  9
    labels     -  -  -   y  z  .   -  x  .        what follows, where an answer is to be predicted

    sees       C C I I is b y z it a x
      is       1 1 1 1 1  0 0 0 0  0 0
      z        1 1 1 1 1  1 1 1 0  0 0            the opening, the image, its own question
      x        1 1 1 1 1  0 0 0 1  1 1

The token that ends the last turn predicts nothing, so it is a label and never an input.

A conversation of several turns is here once for each of its answers, each time with all that was said before:

    C C I I is it a | x .
    C C I I is it a   x . is b | y z .

The tree has made one sequence of these again, in which every answer is a label once. Text before the image may differ,
or there may be no image: a row then sees as much of the opening as it begins with.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vlm.device import sent
from vlm.errors import UserError


class TooLong(UserError):
    """A question or conversation that alone does not fit a row."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids through the last answer and the end of its turn; the first `prompt` ids ask.

    answers: the stretches ids[start:end] that are learnt; (): all behind the prompt.
    """

    question_id: str
    ids: Sequence[int]
    prompt: int
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: a tree of conversations. The token at `label_at[i]` predicts `labels[i]`.

    opening_seen: how many tokens of the opening are in front of it, and therefore not in `ids`.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    ends: tuple[int, ...]
    label_at: tuple[int, ...]
    labels: tuple[int, ...]
    opening_seen: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right to T tokens; L labels and S image slots in all.

    ids, positions, ends: int64[B, T]; label_at: int64[L] and slot_at: int64[S], indices into the flattened [B * T];
    labels: int64[L]; opening_seen: int64[B]. All that a forward pass must know is here, so that nothing of it has to
    be read back from the device.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    label_at: torch.Tensor
    labels: torch.Tensor
    opening_seen: torch.Tensor
    slot_at: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(sent(getattr(self, name), device) for name in self.__slots__))

    def pinned(self) -> "Batch":
        """In memory that a GPU copies from while the processor goes on."""
        return Batch(*(getattr(self, name).pin_memory() for name in self.__slots__))


def image_runs(row: Row, image_id: int, slots: int) -> list[int]:
    """Which of its conversations' images each run of `slots` image slots shows, in the order of the row.

    A conversation's first image is 0. The image of a slot follows from how many slots its conversation has before it:

        ids   I I is I I b   it I I a        slots=2; "is" and "it" begin two conversations
        runs  0      1          1
    """
    if row.ids.count(image_id) == slots:  # nearly every row
        return [0]
    runs: list[int] = []
    # Where the subtrees of the slots end that are before this place; they are nested, the first is the widest.
    before: list[int] = []
    for place, token in enumerate(row.ids):
        if token == image_id:
            while before and before[-1] <= place:  # of another branch
                before.pop()
            image, at = divmod(len(before), slots)
            if at == 0:
                runs.append(image)
            before.append(row.ends[place])
    return runs


def make_row(conversations: Sequence[Conversation], opening_seen: int) -> Row:
    """Merge what conversations begin with, without their first `opening_seen` ids; labels in the order of the tree."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    label_at: list[int] = []
    labels: list[int] = []
    path: list[int] = []  # where the previous conversation's tokens are in the row, from its first to its last
    # Sorted, conversations that begin alike are neighbours, and every subtree is one stretch of the row.
    ordered = sorted(conversations, key=lambda conversation: list(conversation.ids))
    shared = shared_length(ordered[0].ids, ordered[-1].ids) - opening_seen  # by all: the image, nearly always
    for conversation in ordered:
        tokens = conversation.ids[opening_seen:-1]  # its last token is only ever predicted
        most = min(len(path), len(tokens))
        common = min(shared, most)  # tokens that are in the row already: the previous conversation begins with them too
        while common < most and ids[path[common]] == tokens[common]:
            common += 1
        # Here the tree branches: what the previous conversation has alone ends, and no later token sees it.
        end = len(ids)
        for place in path[common:]:
            ends[place] = end
        new = len(tokens) - common
        del path[common:]
        path += range(end, end + new)
        ids += tokens[common:]
        positions += range(opening_seen + common, opening_seen + len(tokens))
        ends += [0] * new  # known when the next branch is
        # The prompt's last token predicts the answer's first, and so on to the token that ends the turn.
        for start, stop in conversation.answers or ((conversation.prompt, len(conversation.ids)),):
            label_at += path[start - 1 - opening_seen : stop - 1 - opening_seen]
            labels += conversation.ids[start:stop]
    for place in path:
        ends[place] = len(ids)
    return Row(tuple(ids), tuple(positions), tuple(ends), tuple(label_at), tuple(labels), opening_seen)


def shared_length(one: Sequence[int], two: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    low, high = 0, min(len(one), len(two))
    while low < high:  # bisection: slices are compared many times as fast as ids one by one
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == two[low:middle] else (low, middle - 1)
    return low


def fill_rows(groups: Sequence[Sequence[Conversation]], opening_ids: Sequence[int], row_tokens: int) -> list[Row]:
    """Conversations about the same images, in order, in as few rows of `row_tokens` as fit.

    A group, the answers of one conversation, stays in one row. opening_ids: left out of rows that begin with them.
    Raises: TooLong if a group alone does not fit.
    """
    opening_seen = min(_begins_with(conversation, opening_ids) for group in groups for conversation in group)

    def row_of(some: Sequence[Sequence[Conversation]]) -> Row:
        return make_row([conversation for group in some for conversation in group], opening_seen)

    rows, waiting = [], list(groups)
    while waiting:
        row, taken = row_of(waiting), len(waiting)
        if len(row.ids) > row_tokens:
            # A tree only grows with its conversations: what does not fit now will not with more of them.
            taken = _largest(taken, lambda count, groups=waiting: len(row_of(groups[:count]).ids) <= row_tokens)
            if taken == 0:
                raise TooLong(
                    f"question {waiting[0][0].question_id} with its images and answers takes "
                    f"{len(row_of(waiting[:1]).ids)} tokens, more than --row-tokens {row_tokens} allows: "
                    "raise --row-tokens or leave the question out"
                )
            row = row_of(waiting[:taken])
        rows.append(row)
        waiting = waiting[taken:]
    return rows


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest count of `most` at most that fits, by bisection; 0 if 1 does not fit."""
    return bisect_left(range(1, most + 1), True, key=lambda count: not fits(count))


def _begins_with(conversation: Conversation, opening_ids: Sequence[int]) -> int:
    """How many tokens of the opening a conversation begins with; the last token that asks is not counted."""
    limit = min(len(opening_ids), conversation.prompt - 1)
    return shared_length(list(conversation.ids[:limit]), list(opening_ids[:limit]))


def make_batch(rows: Sequence[Row], image_id: int | None = None, multiple: int = 1) -> Batch:
    """Pad rows on the right to the longest, and on to a `multiple`; a pad sees what is before it, and nothing sees a
    pad but itself. image_id: the token of image slots; None for rows without.
    """
    width = rounded(max(len(row.ids) for row in rows), multiple)
    ids = np.zeros((len(rows), width), np.int64)
    positions = np.zeros_like(ids)
    ends = np.tile(np.arange(1, width + 1), (len(rows), 1))  # the subtree of a pad is the pad
    label_at, labels = [], []
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length] = row.ids
        positions[number, :length] = row.positions
        ends[number, :length] = row.ends
        label_at.append(np.array(row.label_at, np.int64) + number * width)  # in the batch, flattened to [B * T]
        labels += row.labels
    opening_seen = np.array([row.opening_seen for row in rows])
    slot_at = np.flatnonzero(ids == image_id) if image_id is not None else np.zeros(0, np.int64)
    arrays = (ids, positions, ends, np.concatenate(label_at), np.array(labels, np.int64), opening_seen, slot_at)
    return Batch(*map(torch.from_numpy, arrays))


def rounded(length: int, multiple: int) -> int:
    """The next multiple: 486 -> 496 of 16."""
    return -(-length // multiple) * multiple


def attention_mask(
    ends: torch.Tensor, opening_keys: int, dtype: torch.dtype, opening_seen: torch.Tensor | None = None
) -> torch.Tensor:
    """ends: int64[B, T] -> additive mask [B, 1, T, opening_keys + T] of `dtype`: 0 = seen, finfo.min = not seen.

    opening_keys: keys of the opening, with padding behind them. opening_seen: int64[B], how many of them a row sees;
    None: all.
    Additive, never boolean: eager attention adds a boolean mask to the scores as 0 and 1, and every token sees all.
    Dense on GPUs too: in a row of 196 image tokens and 13 questions, attention is 5 % of the operations of
    Qwen2.5-1.5B's layers, so that block-sparse kernels (FlexAttention) could save 3 % of them at most.
    """
    length = ends.shape[1]
    places = torch.arange(length, device=ends.device)
    past = places[None, :] <= places[:, None]  # [T, T]: token i (row) sees itself and what is before it ...
    subtree = places[:, None] < ends[:, None, :]  # [B, T, T]: ... and only tokens j whose subtree it is in
    opening = past.new_ones(len(ends), length, opening_keys)  # [B, T, opening_keys]: every token sees the opening ...
    if opening_seen is not None:  # ... as far as its row begins with it
        opening &= torch.arange(opening_keys, device=ends.device) < opening_seen[:, None, None]
    seen = torch.cat([opening, past & subtree], dim=-1)  # [B, T, opening_keys + T]
    mask = torch.zeros(seen.shape, dtype=dtype, device=ends.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
