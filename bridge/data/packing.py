"""One image, many isolated questions: conversations -> rows -> padded batches of token ids, positions, labels, masks.

The conversations of an image are merged into a tree: what they begin with in common, the image above all, is there
once, and each token sees its own conversation's past and nothing else. Written down in depth-first order, a token is
described by the place where its subtree ends: token i sees token j if j <= i < ends[j].

Worked example. Two conversations about one image; C is the constant text before the image, whose keys and values are
cached (`constant=2`) and which is therefore not in the row, I an image slot, `.` the token that ends a turn:

    C C I I is it a | x .           question "is it a", answer "x"
    C C I I is b    | y z .         question "is b",    answer "y z"

    place      0  1  2   3  4  5   6  7  8
    ids        I  I  is  b  y  z   it a  x
    positions  2  3  4   5  6  7   5  6  7        a token's place in its own conversation
    ends       9  9  9   6  6  6   9  9  9
    labels     -  -  -   y  z  .   -  x  .        what follows, where an answer is to be predicted

    sees       C C I I is b y z it a x
      is       1 1 1 1 1  0 0 0 0  0 0
      z        1 1 1 1 1  1 1 1 0  0 0            the constant text, the image, its own question
      x        1 1 1 1 1  0 0 0 1  1 1

The token that ends a turn predicts nothing, so it is a label and never an input.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm.errors import UserError

FILLED = 0.75  # of the longest row: the least that a row of the same micro-batch holds


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of one question and its answer, through the end of the turn; the first `prompt` ids ask."""

    question_id: str
    ids: tuple[int, ...]
    prompt: int


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: a tree of conversations. The token at `label_at[i]` predicts `labels[i]`."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    ends: tuple[int, ...]
    label_at: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right to T tokens; L labels in all.

    ids, positions, ends: int64[B, T]; label_at: int64[L], an index into the flattened [B * T]; labels: int64[L].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    label_at: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


def image_slots(ids: Sequence[int], image_id: int) -> tuple[int, int]:
    """First image slot and the one past the last; (0, 0) without an image. The slots must be one unbroken run."""
    at = [index for index, token in enumerate(ids) if token == image_id]
    if not at:
        return 0, 0
    if at[-1] - at[0] + 1 != len(at):
        raise ValueError(f"image slots are scattered over positions {at[0]}..{at[-1]}: one image per conversation")
    return at[0], at[-1] + 1


def make_row(conversations: Sequence[Conversation], constant: int) -> Row:
    """Merge what conversations begin with, without their first `constant` ids; labels come in the order of the tree."""
    ids, positions, ends, label_at, labels = [], [], [], [], []
    path: list[int] = []  # where the previous conversation's tokens are in the row, from its first to its last
    # Sorted, conversations that begin alike are neighbours, and every subtree is one stretch of the row.
    for conversation in sorted(conversations, key=lambda conversation: conversation.ids):
        tokens = conversation.ids[constant:-1]  # its last token is only ever predicted
        common = 0  # tokens that are in the row already, because the previous conversation begins with them too
        while common < min(len(path), len(tokens)) and ids[path[common]] == tokens[common]:
            common += 1
        # Here the tree branches: what the previous conversation has alone ends, and no later token sees it.
        for place in path[common:]:
            ends[place] = len(ids)
        new = range(len(ids), len(ids) + len(tokens) - common)
        path = [*path[:common], *new]
        ids += tokens[common:]
        positions += range(constant + common, constant + len(tokens))
        ends += [0] * len(new)  # known when the next branch is
        # The prompt's last token predicts the answer's first, and so on to the token that ends the turn.
        label_at += path[conversation.prompt - 1 - constant :]
        labels += conversation.ids[conversation.prompt :]
    for place in path:
        ends[place] = len(ids)
    return Row(tuple(ids), tuple(positions), tuple(ends), tuple(label_at), tuple(labels))


def fill_rows(conversations: Sequence[Conversation], image_id: int, constant: int, row_tokens: int) -> list[Row]:
    """One image's conversations, in order, in as few rows of `row_tokens` as fit; `UserError` if one alone does not."""
    _, image_end = image_slots(conversations[0].ids, image_id)
    for conversation in conversations:
        if conversation.ids[:image_end] != conversations[0].ids[:image_end]:
            raise ValueError(f"question {conversation.question_id} does not share the text through the image")
        alone = len(conversation.ids) - 1 - constant
        if alone > row_tokens:
            raise UserError(
                f"question {conversation.question_id} with its image and answer takes {alone} tokens, "
                f"more than --row-tokens {row_tokens} allows: raise --row-tokens or leave the question out"
            )
    rows, waiting = [], list(conversations)
    while waiting:
        row, taken = make_row(waiting, constant), len(waiting)
        if len(row.ids) > row_tokens:
            # A tree only grows with its conversations, so the largest count that fits is found by bisection.
            counts = range(1, taken)
            taken = bisect_right(counts, row_tokens, key=lambda count: len(make_row(waiting[:count], constant).ids))
            row = make_row(waiting[:taken], constant)
        rows.append(row)
        waiting = waiting[taken:]
    return rows


def micro_batches(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Indices of rows, longest first; a micro-batch takes `tokens` tokens with its padding, or is one row.

    A step mixes rows of any length, but a micro-batch only those of similar length: little of it is padding.
    """
    batches: list[list[int]] = []
    longest = 0  # tokens of the last micro-batch's first row: all its rows are padded to as many
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].ids)):
        length = len(rows[index].ids)
        fits = bool(batches) and (len(batches[-1]) + 1) * longest <= tokens
        if fits and length >= FILLED * longest:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = length
    return batches


def make_batch(rows: Sequence[Row]) -> Batch:
    """Pad rows on the right to the longest; a pad sees what is before it, and nothing sees a pad but itself."""
    width = max(len(row.ids) for row in rows)
    ids, positions, ends, label_at, labels = [], [], [], [], []
    for number, row in enumerate(rows):
        length = len(row.ids)
        pads = [0] * (width - length)
        ids.append([*row.ids, *pads])
        positions.append([*row.positions, *pads])
        ends.append([*row.ends, *range(length + 1, width + 1)])  # the subtree of a pad is the pad
        label_at += [number * width + place for place in row.label_at]  # in the batch, flattened to [B * T]
        labels += row.labels
    return Batch(*map(torch.tensor, (ids, positions, ends, label_at, labels)))


def attention_mask(ends: torch.Tensor, constant: int, dtype: torch.dtype) -> torch.Tensor:
    """ends: int64[B, T] -> additive mask [B, 1, T, constant + T] of `dtype`: 0 = seen, finfo.min = not seen.

    Additive, never boolean: eager attention adds a boolean mask to the scores as 0 and 1, and every token sees all.
    Dense on GPUs too: in a row of 196 image tokens and 13 questions, attention is 5 % of the operations of
    Qwen2.5-1.5B's layers, so that block-sparse kernels (FlexAttention) could save 3 % of them at most.
    """
    length = ends.shape[1]
    places = torch.arange(length, device=ends.device)
    past = places[None, :] <= places[:, None]  # [T, T]: token i (row) sees itself and what is before it ...
    subtree = places[:, None] < ends[:, None, :]  # [B, T, T]: ... and only tokens j whose subtree it is in
    text = past.new_ones(len(ends), length, constant)  # [B, T, constant]: every token sees the constant text
    seen = torch.cat([text, past & subtree], dim=-1)  # [B, T, constant + T]
    mask = torch.zeros(seen.shape, dtype=dtype, device=ends.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
