"""The packed forward pass: features through the connector into the language model, logits only where labels are."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn import functional
from transformers import DynamicCache, LlamaModel, LlavaForConditionalGeneration

from bridge.data.packing import Batch, attention_mask, image_slots
from vlm.llava.parts import connector, language_model

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
# The argument's name changed, and a model takes any that it does not know in silence: it would see no cache at all.
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def prefill(model: LlavaForConditionalGeneration, ids: Sequence[int]) -> KeysAndValues:
    """Keys and values of text that opens every conversation, per layer [1, heads, len(ids), head_dim]; [] for no text.

    They stay valid for as long as the language model does not change, and carry gradients to what of it is trained.
    """
    cache = DynamicCache()
    if ids:
        device = model.get_input_embeddings().weight.device
        tokens = torch.tensor([list(ids)], device=device)
        language_model(model)(input_ids=tokens, use_cache=True, **{CACHE: cache})
    return [(layer.keys, layer.values) for layer in cache.layers]


@contextmanager
def shared_prefill(model: LlavaForConditionalGeneration, ids: Sequence[int]) -> Iterator[KeysAndValues]:
    """`prefill` for several backward passes: their gradients are gathered at its result and passed through it once."""
    states = [state for layer in prefill(model, ids) for state in layer]
    leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
    yield list(zip(leaves[0::2], leaves[1::2]))
    pairs = [(state, leaf.grad) for state, leaf in zip(states, leaves) if leaf.grad is not None]
    if pairs:
        torch.autograd.backward(*zip(*pairs))


def label_logits(
    model: LlavaForConditionalGeneration, batch: Batch, features: torch.Tensor | None, constant: KeysAndValues
) -> torch.Tensor:
    """Logits that predict `batch.labels`, float[L, vocabulary].

    features: [B, N, D] patch tokens of the rows' images, in row order; None for rows without an image.
    constant: `prefill` of the text that was left out of the rows, or empty.
    """
    embeddings = model.get_input_embeddings()(batch.ids)
    if features is not None:
        projector = connector(model)
        projected = projector(features.to(next(projector.parameters()).dtype)).to(embeddings.dtype)
        start, end = image_slots(batch.ids[0].tolist(), model.config.image_token_id)
        if end - start != projected.shape[1]:
            raise ValueError(f"the prompt has {end - start} image slots, the encoder gives {projected.shape[1]} tokens")
        embeddings = torch.cat([embeddings[:, :start], projected, embeddings[:, end:]], dim=1)
    # A fresh cache each time: the layers' `update` grows the cache object that they are given.
    rows = len(batch.ids)
    cache = DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in constant])
    hidden = language_model(model)(
        inputs_embeds=embeddings,
        attention_mask=attention_mask(batch.ends, cache.get_seq_length(), embeddings.dtype),
        position_ids=batch.positions,
        use_cache=False,
        **{CACHE: cache if constant else None},
    ).last_hidden_state
    return model.lm_head(hidden.flatten(0, 1)[batch.label_at])


def loss_sum(
    model: LlavaForConditionalGeneration, batch: Batch, features: torch.Tensor | None, constant: KeysAndValues
) -> torch.Tensor:
    """Cross-entropy summed over the answer tokens, float32 scalar; divide by their global count."""
    return functional.cross_entropy(
        label_logits(model, batch, features, constant).float(), batch.labels, reduction="sum"
    )
