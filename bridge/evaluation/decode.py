"""Greedy answers to many questions about few images, nothing computed twice.

Text before the image is the same in every prompt: prefilled once per `Decoder`. An image is prefilled once for all its
questions. The questions of an image then share one row of the batch, each seeing the prefix and itself only:

    keys:       <text> <img> <img> | Is it red ? A: | How many ? A: | .
    A: (1st)       1     1     1   | 1  1  1   1 1  | 0   0    0 0  | 0
    A: (2nd)       1     1     1   | 0  0  0   0 0  | 1   1    1 1  | 0      `.` is padding, seen by nobody

So neither the prefix's keys nor their copies grow with the number of questions, and a step feeds one token of every
unfinished question. Masks are explicit and additive, positions restart after the prefix: same numbers, up to float
rounding, as `model.generate(do_sample=False)` one prompt at a time.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

from bridge.forward import CACHE
from vlm.llava.model import VLM
from vlm.llava.parts import language_model

_SHARED, _PADDING = -1, -2  # owners of keys: the prefix, seen by all questions of a row; right padding, seen by none


@dataclass(frozen=True)
class Prompts:
    """The prompts of questions about one image, as token ids.

    prefix: what they all begin with, image slots included. features: [N, D], what the LLM reads in place of the slots,
    None without an image. tails: the rest of each prompt, one token at least.
    """

    prefix: list[int]
    tails: list[list[int]]
    features: torch.Tensor | None = None


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of what all sequences begin with, one short of the shortest sequence at most."""
    low, high = min(sequences), max(sequences)
    limit = min(len(ids) for ids in sequences) - 1
    return next((i for i in range(limit) if low[i] != high[i]), limit)


def make_prompts(prompts: Sequence[list[int]], features: torch.Tensor | None = None) -> Prompts:
    """Split whole prompts, one per question about the same image, into shared prefix and tails."""
    shared = common_prefix(prompts)
    return Prompts(prompts[0][:shared], [ids[shared:] for ids in prompts], features)


def image_features(vlm: VLM, pixels: torch.Tensor) -> torch.Tensor:
    """pixels: float32[B, 3, H, W] -> what the LLM reads in place of the image slots, [B, N, D]."""
    tower = next(vlm.vision_tower.parameters())
    return torch.stack(vlm.model.get_image_features(pixel_values=pixels.to(tower)).pooler_output)


def end_ids(model: LlavaForConditionalGeneration) -> set[int]:
    """The tokens at which stock `generate` stops."""
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends]) - {None}


def to_text(vlm: VLM, ids: list[int]) -> str:
    return vlm.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


class Decoder:
    """Greedy decoding for one LLaVA model whose prompts all begin with `constant`, up to the first image slot.

    row_size: questions that share a row at most; a row's attention grows with the square of its questions.
    """

    def __init__(self, model: LlavaForConditionalGeneration, constant: list[int], row_size: int = 16):
        self.model = model
        self.text = language_model(model)
        weight = model.get_input_embeddings().weight  # a quantised model's other weights have another dtype
        self.device, self.dtype = weight.device, weight.dtype
        self.ends = end_ids(model)
        self.slot = model.config.image_token_id
        self.row_size = row_size
        self.constant = constant[: constant.index(self.slot)] if self.slot in constant else list(constant)
        self._constant_cache = self._prefill_constant()

    @torch.inference_mode()
    def decode(self, groups: Sequence[Prompts], max_new_tokens: int) -> list[list[list[int]]]:
        """The new token ids of every question of every group, without the end token."""
        cache, lengths = self._prefill(groups)
        rows, parents = [], []
        for parent, group in enumerate(groups):
            count = -(-len(group.tails) // self.row_size)
            size = -(-len(group.tails) // count)  # rows of nearly equal size
            parts = [group.tails[i : i + size] for i in range(0, len(group.tails), size)]
            rows += parts
            parents += [parent] * len(parts)
        if parents != list(range(len(groups))):
            cache.batch_select_indices(self._tensor(parents))
        answers = self._decode_rows(rows, [lengths[parent] for parent in parents], cache, max_new_tokens)
        merged: list[list[list[int]]] = [[] for _ in groups]
        for parent, row in zip(parents, answers):
            merged[parent] += row
        return merged

    def _tensor(self, values) -> torch.Tensor:
        return torch.tensor(values, device=self.device)

    @torch.inference_mode()
    def _prefill_constant(self) -> DynamicCache:
        cache = DynamicCache()
        if self.constant:
            self.text(input_ids=self._tensor([self.constant]), use_cache=True, **{CACHE: cache})
        return cache

    def _prefill(self, groups: Sequence[Prompts]) -> tuple[DynamicCache, list[int]]:
        """Keys and values of every group's prefix, one row each, right-padded; and the prefixes' lengths.

        Causality alone keeps the padding unseen here; later `_decode_rows` masks it.
        """
        skip = len(self.constant)
        if any(group.prefix[:skip] != self.constant for group in groups):  # a prompt of another kind: all of it anew
            return Decoder(self.model, [], self.row_size)._prefill(groups)
        cache = copy.deepcopy(self._constant_cache)
        if skip:
            cache.batch_repeat_interleave(len(groups))
        rests = [self._embed(group, skip) for group in groups]
        if max(len(rest) for rest in rests) > 0:
            embeddings = torch.nn.utils.rnn.pad_sequence(rests, batch_first=True)
            self.text(inputs_embeds=embeddings, use_cache=True, **{CACHE: cache})
        return cache, [len(group.prefix) for group in groups]

    def _embed(self, group: Prompts, skip: int) -> torch.Tensor:
        """Embeddings [P - skip, D] of a prefix from `skip` on, its image slots replaced by position."""
        ids = self._tensor(group.prefix[skip:]).long()
        embeddings = self.model.get_input_embeddings()(ids)
        if group.features is not None:
            slots = ids == self.slot
            if int(slots.sum()) != len(group.features):
                raise ValueError(f"{int(slots.sum())} image slots in the prompt, {len(group.features)} image features")
            embeddings[slots] = group.features.to(embeddings)
        return embeddings

    def _decode_rows(self, rows, starts: list[int], cache: DynamicCache, budget: int) -> list[list[list[int]]]:
        """rows[r]: tails that share the prefix in row r of `cache`, of length starts[r] without its padding."""
        answers = [[[] for _ in row] for row in rows]
        alive = list(range(len(rows)))  # rows with an unfinished question
        columns = torch.arange(cache.get_seq_length(), device=self.device).expand(len(rows), -1)
        owners = torch.where(columns < self._tensor(starts)[:, None], _SHARED, _PADDING)
        keys = _Tokens(owners, columns)
        # a step: per row the (question, token, position) to feed; whole tails first, then each one's newest token
        step = [
            [(q, token, starts[r] + i) for q, tail in enumerate(row) for i, token in enumerate(tail)]
            for r, row in enumerate(rows)
        ]
        for _ in range(budget):
            if not alive:
                break
            newest, keys = self._feed(step, keys, cache)
            step = [[] for _ in alive]
            for (r, q), (token, position) in newest.items():
                if token not in self.ends:
                    answers[alive[r]][q].append(token)
                    step[r].append((q, token, position + 1))
            kept = [r for r, row in enumerate(step) if row]
            if len(kept) < len(alive):
                cache.batch_select_indices(self._tensor(kept).long())
                keys = _Tokens(keys.owners[kept], keys.positions[kept])
                alive, step = [alive[r] for r in kept], [step[r] for r in kept]
        return answers

    def _feed(self, step, keys: "_Tokens", cache: DynamicCache):
        """One forward pass. Returns {(row, question): (next token, position of the last one fed)}, and the new keys."""
        width = max(len(row) for row in step)
        padded = [row + [(_PADDING, 0, 0)] * (width - len(row)) for row in step]
        owners, ids, positions = self._tensor(padded).unbind(-1)
        queries = _Tokens(owners, positions)
        keys = _Tokens(torch.cat([keys.owners, owners], 1), torch.cat([keys.positions, positions], 1))
        hidden = self.text(
            input_ids=ids,
            attention_mask=additive_mask(queries, keys, self.dtype),
            position_ids=positions,
            use_cache=True,
            **{CACHE: cache},
        ).last_hidden_state
        last = {(r, q): (r, i, position) for r, row in enumerate(step) for i, (q, _, position) in enumerate(row)}
        where = self._tensor([place[:2] for place in last.values()])
        tokens = self.model.lm_head(hidden[where[:, 0], where[:, 1]]).argmax(-1).tolist()
        return {key: (token, place[2]) for token, (key, place) in zip(tokens, last.items())}, keys


@dataclass(frozen=True)
class _Tokens:
    """owners, positions: int64[rows, tokens]; a token's owner is its question's number in the row."""

    owners: torch.Tensor
    positions: torch.Tensor


def additive_mask(queries: _Tokens, keys: _Tokens, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 1, queries, keys]: 0 where a query sees a key of its own question or of the prefix, not after itself."""
    own = queries.owners[:, :, None] == keys.owners[:, None]
    seen = (own | (keys.owners == _SHARED)[:, None]) & (keys.positions[:, None] <= queries.positions[:, :, None])
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
