"""One image, many isolated questions: conversations -> rows -> padded batches of token ids, positions, masks, labels.

Worked example. Two conversations about one image; C is the constant text before the image, whose keys and values are
cached (`constant=2`) and which is therefore not in the row, I an image slot, n text that all questions share, `.` the
token that ends the turn:

    C C I I n a b | x .          question "a b", answer "x"
    C C I I n c   | y z .        question "c",   answer "y z"

    ids        I  I  n   a  b  x   c  y  z
    positions  2  3  4   5  6  7   5  6  7        restart after the shared prefix
    segments   0  0  0   1  1  1   2  2  2
    labels     -  -  -   -  x  .   y  z  .        what follows, where an answer is to be predicted

    sees       C C I I n a b x c y z
      n        1 1 1 1 1 0 0 0 0 0 0
      x        1 1 1 1 1 1 1 1 0 0 0              the constant text, the image, its own question
      z        1 1 1 1 1 0 0 0 1 1 1

The token that ends a turn predicts nothing, so it is a label and never an input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm.errors import UserError

PAD_SEGMENT = -1
FILLED = 0.75


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of one question and its answer, through the end of the turn; the first `prompt` ids ask."""

    question_id: str
    ids: tuple[int, ...]
    prompt: int


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: the shared prefix and its questions. `label_at[i]` is the position that predicts `labels[i]`."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    label_at: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right to T tokens; L labels in all.

    ids, positions, segments: int64[B, T]; label_at: int64[L], an index into the flattened [B * T]; labels: int64[L].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
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


def shared_prefix(conversations: Sequence[Conversation]) -> int:
    """Number of leading ids that all conversations share; a question keeps its prompt's last id to itself.

    That id predicts the answer's first token, so it must belong to one question alone.
    """
    limit = min(conversation.prompt for conversation in conversations) - 1
    first = conversations[0].ids
    for index in range(limit):
        if any(conversation.ids[index] != first[index] for conversation in conversations):
            return index
    return limit


def make_row(conversations: Sequence[Conversation], constant: int) -> Row:
    """Pack conversations that share all ids through the image; the first `constant` ids are left out of the row."""
    shared = shared_prefix(conversations)
    ids = list(conversations[0].ids[constant:shared])
    positions, segments = list(range(constant, shared)), [0] * (shared - constant)
    label_at: list[int] = []
    labels: list[int] = []
    for segment, conversation in enumerate(conversations, start=1):
        offset = len(ids) - shared  # of a position in the conversation to its place in the row
        ids += conversation.ids[shared:-1]
        positions += range(shared, len(conversation.ids) - 1)
        segments += [segment] * (len(conversation.ids) - 1 - shared)
        label_at += range(offset + conversation.prompt - 1, offset + len(conversation.ids) - 1)
        labels += conversation.ids[conversation.prompt :]
    return Row(tuple(ids), tuple(positions), tuple(segments), tuple(label_at), tuple(labels))


def fill_rows(conversations: Sequence[Conversation], image_id: int, constant: int, row_tokens: int) -> list[Row]:
    """One image's conversations as few rows as fit `row_tokens` tokens each, in order.

    Raises UserError where one question with its image does not fit, naming it, and ValueError where the conversations
    do not share the text through the image.
    """
    _, image_end = image_slots(conversations[0].ids, image_id)
    rows, waiting = [], []
    for conversation in conversations:
        if conversation.ids[:image_end] != conversations[0].ids[:image_end]:
            raise ValueError(f"question {conversation.question_id} does not share the text through the image")
        alone = len(conversation.ids) - 1 - constant
        if alone > row_tokens:
            raise UserError(
                f"question {conversation.question_id} with its image and answer takes {alone} tokens, "
                f"more than --row-tokens {row_tokens} allows: raise --row-tokens or leave the question out"
            )
        candidate = make_row([*waiting, conversation], constant)
        if len(candidate.ids) > row_tokens:
            rows.append(make_row(waiting, constant))
            waiting = []
        waiting.append(conversation)
    return [*rows, make_row(waiting, constant)]


def micro_batches(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Indices of rows, longest first; a micro-batch takes `tokens` tokens with its padding, or is one row.

    Rows join only where they are at least `FILLED` as long as the longest: a step mixes rows of any length, its
    micro-batches little padding.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].ids)):
        longest = len(rows[batches[-1][0]].ids) if batches else 0
        if longest and (len(batches[-1]) + 1) * longest <= tokens and len(rows[index].ids) >= FILLED * longest:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def make_batch(rows: Sequence[Row]) -> Batch:
    """Pad rows on the right; padding has segment -1, which no question sees, and id and position 0."""
    width = max(len(row.ids) for row in rows)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([[*getattr(row, name), *[value] * (width - len(row.ids))] for row in rows])

    label_at = [number * width + index for number, row in enumerate(rows) for index in row.label_at]
    labels = [label for row in rows for label in row.labels]
    return Batch(
        ids=padded("ids", 0),
        positions=padded("positions", 0),
        segments=padded("segments", PAD_SEGMENT),
        label_at=torch.tensor(label_at, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def attention_mask(segments: torch.Tensor, constant: int, dtype: torch.dtype) -> torch.Tensor:
    """segments: int64[B, T] -> additive mask [B, 1, T, constant + T] of `dtype`: 0 = seen, finfo.min = not seen.

    Additive, never boolean: eager attention adds a boolean mask to the scores as 0 and 1, and every token sees all.
    Padding sees itself, so that no row of the softmax is empty.
    """
    size = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(size, size, dtype=torch.bool, device=segments.device).tril()
    seen = (same | (segments == 0)[:, None, :]) & causal
    seen = torch.cat([seen.new_ones(*seen.shape[:2], constant), seen], dim=-1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
