"""The packed forward pass: features through the connector into the language model, logits only where labels are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache, LlavaForConditionalGeneration
from transformers.cache_utils import DynamicLayer

from bridge.data.packing import Batch, attention_mask, rounded
from vlm.llava.parts import CACHE, connector, language_model

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
Stack = Callable[..., Any]  # a language model's forward


def prefill(model: LlavaForConditionalGeneration, ids: Sequence[int]) -> KeysAndValues:
    """Keys and values of the opening `ids`, per layer [1, heads, len(ids), head_dim]; [] for no text.

    They stay valid for as long as the language model does not change, and carry gradients to what of it is trained.
    """
    if not ids:
        return []
    cache = DynamicCache()
    tokens = torch.tensor([list(ids)], device=model.device)  # [1, len(ids)]
    language_model(model)(input_ids=tokens, use_cache=True, **{CACHE: cache})
    states: KeysAndValues = []
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise TypeError(f"a {type(layer).__name__} has no keys and values: give a model with plain attention")
        states.append((layer.keys, layer.values))
    return states


def padded(states: KeysAndValues, multiple: int) -> KeysAndValues:
    """The same with unseen keys behind, as many as a multiple takes: the kernels' keys are then of an even number."""
    length = states[0][0].shape[2] if states else 0
    more = rounded(length, multiple) - length
    return [(functional.pad(keys, (0, 0, 0, more)), functional.pad(values, (0, 0, 0, more))) for keys, values in states]


@contextmanager
def shared_prefill(model: LlavaForConditionalGeneration, ids: Sequence[int]) -> Iterator[KeysAndValues]:
    """`prefill` for several backward passes: their gradients are gathered at its result and passed through it once."""
    states = [state for layer in prefill(model, ids) for state in layer]  # keys, values, keys, values, ...
    # Copies that are cut off from how they were computed: a backward pass ends at them and adds to their `grad`.
    leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
    yield list(zip(leaves[0::2], leaves[1::2]))
    reached = [(state, leaf.grad) for state, leaf in zip(states, leaves) if leaf.grad is not None]
    if reached:
        torch.autograd.backward([state for state, _ in reached], [gradient for _, gradient in reached])


def compiled_stack(model: LlavaForConditionalGeneration) -> Stack:
    """The language model's forward through torch.compile, as one graph for any number of rows and tokens.

    Not the layers one by one: each reads its own number, by which it finds its part of the cache, so that every layer
    would be compiled anyway, and each would be launched by Python.
    """
    return torch.compile(language_model(model).forward, dynamic=True)


def label_logits(
    model: LlavaForConditionalGeneration,
    batch: Batch,
    features: torch.Tensor | None,
    opening_states: KeysAndValues,
    stack: Stack | None = None,
) -> torch.Tensor:
    """Logits that predict `batch.labels`, float[L, vocabulary].

    batch: B rows of T tokens. features: [R, N, D] patch tokens of the R runs of image slots, row by row; None for
    rows without an image. opening_states: `prefill` of the opening, whose C tokens rows may see and do not hold; or
    empty. stack: `compiled_stack`, in place of the language model's own forward.
    """
    embeddings = model.get_input_embeddings()(batch.ids)  # [B, T, width]
    if features is not None:  # projected, they take the place of the image slots
        projector = connector(model)
        weight = next(projector.parameters())  # fp32, whatever the frozen parts are
        projected = projector(features.to(weight.dtype)).to(embeddings.dtype).flatten(0, 1)  # -> [R * N, width]
        if len(batch.slot_at) != len(projected):
            raise ValueError(
                f"the rows have {len(batch.slot_at)} image slots, the encoder gives {len(projected)} tokens"
            )
        embeddings = embeddings.flatten(0, 1).index_copy(0, batch.slot_at, projected).view_as(embeddings)
    # The rows share the opening's states: expanded, not copied. A fresh cache each time: the layers' `update` grows the
    # cache object that they are given.
    rows = len(batch.ids)
    shared = [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in opening_states]
    cache = DynamicCache(shared)  # [B, heads, C, head_dim] a layer
    hidden = (stack or language_model(model))(
        inputs_embeds=embeddings,
        attention_mask=attention_mask(  # [B, 1, T, C + T]
            batch.ends, cache.get_seq_length(), embeddings.dtype, batch.opening_seen
        ),
        position_ids=batch.positions,  # [B, T]: a token's place in its own conversation
        use_cache=False,
        **{CACHE: cache if opening_states else None},
    ).last_hidden_state  # [B, T, width]
    # The head is a third of a small model: it sees the L places that predict a label, not all B * T.
    predicting = hidden.flatten(0, 1)[batch.label_at]  # [B * T, width] -> [L, width]
    return model.lm_head(predicting)


def loss_sum(
    model: LlavaForConditionalGeneration,
    batch: Batch,
    features: torch.Tensor | None,
    opening_states: KeysAndValues,
    stack: Stack | None = None,
) -> torch.Tensor:
    """Cross-entropy summed over the L answer tokens, float32 scalar; divide by their global count."""
    logits = label_logits(model, batch, features, opening_states, stack).float()
    return functional.cross_entropy(logits, batch.labels, reduction="sum")
