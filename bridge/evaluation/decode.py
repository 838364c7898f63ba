"""Greedy answers to many questions about few images, nothing computed twice.

The opening, the text before the image, is the same in every prompt: prefilled once per `Decoder`. An image is
prefilled once for all its questions. The questions of an image then share one row of the batch, each seeing the prefix
and itself only:

    keys:       <text> <img> <img> | Is it red ? A: | How many ? A: | .
    A: (1st)       1     1     1   | 1  1  1   1 1  | 0   0    0 0  | 0
    A: (2nd)       1     1     1   | 0  0  0   0 0  | 1   1    1 1  | 0      `.` is padding, seen by nobody

So neither the prefix's keys nor their copies grow with the number of questions, and a step feeds one token of every
unfinished question. Masks are explicit and additive, positions restart after the prefix: same numbers, up to float
rounding, as `model.generate(do_sample=False)` one prompt at a time.

In the shapes below R is the number of rows, K that of the keys so far, W the tokens that a step feeds to a row, Q the
unfinished questions of all rows, N an image's slots, D the width of the language model, V its vocabulary.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

from bridge.evaluation.batching import ROW_SIZE
from vlm.device import sent
from vlm.llava.parts import CACHE, language_model

_SHARED, _PADDING = -1, -2  # owners of keys: the prefix, seen by all questions of a row; right padding, seen by none


@dataclass(frozen=True)
class PromptGroup:
    """The prompts of questions about one image, as token ids.

    prefix: what they all begin with, image slots included. features: [N, D], what the LLM reads in place of the slots,
    None without an image. tails: the rest of each prompt, one token at least.
    """

    prefix: list[int]
    tails: list[list[int]]
    features: torch.Tensor | None = None


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of what all sequences begin with, one short of the shortest sequence at most."""
    low, high = min(sequences), max(sequences)  # in the order of a dictionary: what these two share, all share
    limit = min(len(ids) for ids in sequences) - 1
    return next((i for i in range(limit) if low[i] != high[i]), limit)


def group_prompts(prompts: Sequence[list[int]], features: torch.Tensor | None = None) -> PromptGroup:
    """Split whole prompts, one per question about the same image, into shared prefix and tails."""
    shared = common_prefix(prompts)
    return PromptGroup(prompts[0][:shared], [ids[shared:] for ids in prompts], features)


def end_ids(model: LlavaForConditionalGeneration) -> set[int]:
    """The tokens at which stock `generate` stops."""
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends]) - {None}


class Token(NamedTuple):
    """A token to feed: its question's number in the row (`_PADDING`: none), its id, its position in the prompt."""

    question: int
    id: int
    position: int


@dataclass(frozen=True)
class Placed:
    """What the mask knows of the tokens of all rows.

    owners, positions: int64[R, tokens]. An owner is a question's number in the row, `_SHARED` or `_PADDING`.
    """

    owners: torch.Tensor
    positions: torch.Tensor


def additive_mask(queries: Placed, keys: Placed, dtype: torch.dtype) -> torch.Tensor:
    """[R, 1, W, K]: 0 where a query sees a key, the lowest number of `dtype` elsewhere.

    Seen are keys of the query's own question and of the prefix, up to the query's own position.
    """
    own = queries.owners[:, :, None] == keys.owners[:, None]  # bool[R, W, K]
    shared = (keys.owners == _SHARED)[:, None]  # bool[R, 1, K]
    earlier = keys.positions[:, None] <= queries.positions[:, :, None]  # bool[R, W, K]
    seen = (own | shared) & earlier
    zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return zeros.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


class Decoder:
    """Greedy decoding for one LLaVA model whose prompts all begin with `beginning`, up to the first image slot.

    row_size: questions that share a row at most; a row's attention grows with the square of its questions.
    """

    def __init__(self, model: LlavaForConditionalGeneration, beginning: list[int], row_size: int = ROW_SIZE):
        self.model = model
        self.text = language_model(model)
        self.embed = model.get_input_embeddings()
        weight = next(self.embed.parameters())  # a quantised model's other weights have another dtype
        self.device, self.dtype = weight.device, weight.dtype
        self.ends = end_ids(model)
        self.slot = model.config.image_token_id
        self.row_size = row_size
        self.opening_ids = beginning[: beginning.index(self.slot)] if self.slot in beginning else list(beginning)
        self._opening_cache = DynamicCache()
        if self.opening_ids:
            with torch.inference_mode():
                self.text(input_ids=self._tensor([self.opening_ids]), use_cache=True, **{CACHE: self._opening_cache})

    @torch.inference_mode()
    def decode(self, groups: Sequence[PromptGroup], max_new_tokens: int) -> list[list[list[int]]]:
        """The new token ids of every question of every group, without the end token."""
        cache, lengths = self._prefill(groups)  # one row a group
        rows: list[list[list[int]]] = []  # the tails of each row
        parents: list[int] = []  # the group of each row
        for parent, group in enumerate(groups):
            count = math.ceil(len(group.tails) / self.row_size)
            size = math.ceil(len(group.tails) / count)  # rows of nearly equal size
            for start in range(0, len(group.tails), size):
                rows.append(group.tails[start : start + size])
                parents.append(parent)
        if len(rows) > len(groups):
            cache.batch_select_indices(self._tensor(parents))  # a group's prefix once for each of its rows
        answers = self._decode_rows(rows, [lengths[parent] for parent in parents], cache, max_new_tokens)
        merged: list[list[list[int]]] = [[] for _ in groups]
        for parent, row in zip(parents, answers):
            merged[parent] += row
        return merged

    def _tensor(self, values: Sequence) -> torch.Tensor:
        tensor = torch.tensor(values, dtype=torch.int64)
        if self.device.type == "cuda":  # the processor goes on while it is copied
            tensor = tensor.pin_memory()
        return sent(tensor, self.device)

    def _prefill(self, groups: Sequence[PromptGroup]) -> tuple[DynamicCache, list[int]]:
        """Keys and values of every group's prefix, one row each, right-padded; and the prefixes' lengths.

        Causality alone keeps the padding unseen here; later `_decode_rows` masks it.
        """
        skip = len(self.opening_ids)
        if any(group.prefix[:skip] != self.opening_ids for group in groups):  # a prompt of another kind: all of it anew
            return Decoder(self.model, [], self.row_size)._prefill(groups)
        cache = copy.deepcopy(self._opening_cache)
        if skip:
            cache.batch_repeat_interleave(len(groups))
        rests = [group.prefix[skip:] for group in groups]
        if longest := max(map(len, rests)):
            self.text(inputs_embeds=self._embeddings(groups, rests, longest), use_cache=True, **{CACHE: cache})
        return cache, [len(group.prefix) for group in groups]

    def _embeddings(self, groups: Sequence[PromptGroup], rests: list[list[int]], longest: int) -> torch.Tensor:
        """Embeddings [groups, longest, D] of the rests of all prefixes, image slots replaced by features.

        Where the slots are is told by the ids on this side: nothing is asked of the device.
        """
        places: list[int] = []  # of all slots, in [groups * longest]
        features: list[torch.Tensor] = []
        for row, (group, ids) in enumerate(zip(groups, rests)):
            if group.features is None:
                continue
            own = [row * longest + column for column, token in enumerate(ids) if token == self.slot]
            if len(own) != len(group.features):
                raise ValueError(f"{len(own)} image slots in the prompt, {len(group.features)} image features")
            places += own
            features.append(group.features)
        padded = [number for ids in rests for number in [*ids, *[0] * (longest - len(ids))]]
        numbers = self._tensor(padded + places)  # one transfer
        embeddings = self.embed(numbers[: len(padded)])  # [groups * longest, D]
        if features:
            embeddings = embeddings.index_copy(0, numbers[len(padded) :], torch.cat(features).to(embeddings))
        return embeddings.unflatten(0, (len(groups), longest))

    def _decode_rows(
        self, rows: list[list[list[int]]], starts: list[int], cache: DynamicCache, budget: int
    ) -> list[list[list[int]]]:
        """Decode until every question has ended or `budget` tokens are made.

        rows[r]: the tails of the questions in row r. starts[r]: the length of its prefix, which `cache` holds in row r.
        Returns the new token ids by row and question.
        """
        answers: list[list[list[int]]] = [[[] for _ in row] for row in rows]
        alive = list(range(len(rows)))  # rows with an unfinished question; row i of every tensor is row alive[i]
        # The cache holds the prefixes: row r's first starts[r] columns are seen by all its questions, the rest by none.
        columns = torch.arange(cache.get_seq_length(), device=self.device).expand(len(rows), -1)  # int64[R, K]
        keys = Placed(torch.where(columns < self._tensor(starts)[:, None], _SHARED, _PADDING), columns)
        # The first step feeds every tail whole, each later one the newest token of each unfinished question.
        step = [_tail_tokens(row, start) for row, start in zip(rows, starts)]
        for _ in range(budget):
            newest, keys = self._feed(step, keys, cache)
            step = [[token for token in row if token.id not in self.ends] for row in newest]
            for row, unfinished in zip(alive, step):
                for token in unfinished:
                    answers[row][token.question].append(token.id)
            kept = [i for i, unfinished in enumerate(step) if unfinished]
            if not kept:
                break
            if len(kept) < len(alive):
                rows_left = self._tensor(kept)
                cache.batch_select_indices(rows_left)
                keys = Placed(keys.owners[rows_left], keys.positions[rows_left])
                alive, step = [alive[i] for i in kept], [step[i] for i in kept]
        return answers

    def _feed(self, step: list[list[Token]], keys: Placed, cache: DynamicCache) -> tuple[list[list[Token]], Placed]:
        """One forward pass over the tokens of each row.

        Returns the next token of every question that was fed, by row, and the keys with the new ones.
        """
        width = max(len(row) for row in step)
        padded = [row + [Token(_PADDING, 0, 0)] * (width - len(row)) for row in step]
        # Where each question's last token stands; it alone predicts.
        last: dict[tuple[int, int], int] = {}
        for i, row in enumerate(step):
            for column, token in enumerate(row):
                last[i, token.question] = column
        tokens = [number for row in padded for token in row for number in token]
        places = [i for i, _ in last], list(last.values())
        numbers = self._tensor([*tokens, *places[0], *places[1]])  # one transfer a step
        owners, ids, positions = numbers[: len(tokens)].view(len(step), width, 3).unbind(-1)  # int64[R, W] each
        at_rows, at_columns = numbers[len(tokens) :].view(2, -1).unbind()  # int64[Q] each
        queries = Placed(owners, positions)
        # The cache grows by the same columns.
        keys = Placed(torch.cat([keys.owners, owners], dim=1), torch.cat([keys.positions, positions], dim=1))
        hidden = self.text(
            input_ids=ids,
            attention_mask=additive_mask(queries, keys, self.dtype),  # [R, 1, W, K]
            position_ids=positions,
            use_cache=True,
            **{CACHE: cache},
        ).last_hidden_state  # [R, W, D]
        logits = self.model.lm_head(hidden[at_rows, at_columns])  # [Q, V]
        newest: list[list[Token]] = [[] for _ in step]
        for ((i, question), column), token_id in zip(last.items(), logits.argmax(-1).tolist()):
            newest[i].append(Token(question, token_id, step[i][column].position + 1))
        return newest, keys


def _tail_tokens(tails: list[list[int]], start: int) -> list[Token]:
    """The tails of a row side by side, each one's positions from `start` on, which is after the prefix.

    [[7, 8], [9]], 3 -> (0, 7, 3), (0, 8, 4), (1, 9, 3)
    """
    tokens: list[Token] = []
    for question, tail in enumerate(tails):
        tokens += [Token(question, token_id, position) for position, token_id in enumerate(tail, start)]
    return tokens
