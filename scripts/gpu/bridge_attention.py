"""What masks cost: a decoder layer, forward and backward, on a packed micro-batch under several kinds of attention."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from bench.bridge_ways import IMAGE, MICRO_TOKENS, OPENING, conversations, frozen_model, pack
from torch.nn.attention.flex_attention import create_block_mask
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration

from bridge.data.balance import OVERHEAD, WIDTH, cheapest
from bridge.data.packing import Batch, Row, attention_mask, make_batch
from bridge.forward import padded, prefill
from gpu.check import Check, relative_error
from vlm.llava.parts import CACHE, language_model

DENSE = f"dense mask, widths a multiple of {WIDTH}"  # as the bridge trains


def measure(check: Check, config: LlavaConfig, questions: tuple[int, ...]) -> None:
    """Rows of the largest micro-batch of the step."""
    model = frozen_model(config, torch.bfloat16, check.device).requires_grad_(False)
    rows = micro_batch(questions, config)
    exact = _layer(check, model, rows, DENSE, WIDTH, "sdpa", dense)
    _layer(check, model, rows, "dense mask, widths as they come", 1, "sdpa", dense, exact)
    if check.on_gpu:
        try:
            _layer(check, model, rows, "block mask, FlexAttention", WIDTH, "flex_attention", blocks, exact)
        except Exception as problem:  # of the compiler, whose parts are many: a row of its own
            words = " ".join(f"{type(problem).__name__}: {problem}".split())
            check.note("bridge", "layer, block mask, FlexAttention", failed=words[:300])
    else:
        check.note("bridge", "layer, block mask, FlexAttention", skipped="its backward pass is for CUDA alone")
    _layer(check, model, rows, "causal, no mask: another training, the least it can cost", WIDTH, "sdpa", None)
    check.free()


def micro_batch(questions: tuple[int, ...], config: LlavaConfig) -> list[Row]:
    """The micro-batch of a step that has most tokens."""
    rows = list(chain.from_iterable(pack(conversations(questions, config))))
    groups = cheapest([len(row.ids) for row in rows], MICRO_TOKENS, OVERHEAD["cuda"])
    return [rows[index] for index in max(groups, key=lambda group: sum(len(rows[index].ids) for index in group))]


def dense(rows: Batch, opening_keys: int, dtype: torch.dtype) -> torch.Tensor:
    """As `bridge.forward` makes it."""
    return attention_mask(rows.ends, opening_keys, dtype, rows.opening_seen)


def blocks(rows: Batch, opening_keys: int, dtype: torch.dtype) -> Any:
    """The same for FlexAttention, which skips the blocks of which nothing is seen."""
    count, width = rows.ends.shape
    sees = seen(rows, opening_keys)
    return create_block_mask(sees, count, None, width, opening_keys + width, device=rows.ends.device)


def seen(rows: Batch, opening_keys: int) -> Callable[..., torch.Tensor]:
    """The rule of `attention_mask` for one pair: what the row begins with of the opening, and tokens whose subtree the
    query is in. opening_keys: keys in front of the row's own, seen or not.
    """
    ends, opening_seen = rows.ends, rows.opening_seen

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        place = key - opening_keys
        own = (place >= 0) & (place <= query) & (query < ends[batch, place.clamp(min=0)])
        return (key < opening_seen[batch]) | own

    return sees


def _layer(
    check: Check,
    model: LlavaForConditionalGeneration,
    members: list[Row],
    name: str,
    multiple: int,
    implementation: str,
    mask_of: Callable[[Batch, int, torch.dtype], Any] | None,
    exact: torch.Tensor | None = None,
) -> torch.Tensor:
    """One row -> hidden states at the labels, [L, width]; `exact` are those that they are compared with.

    mask_of: makes the mask of rows and so many keys in front; None: no mask, and nothing in front.
    """
    text: Any = language_model(model)
    text.set_attn_implementation("sdpa")
    rows = make_batch(members, IMAGE, multiple).to(check.device)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(rows.ids)
        past = padded(prefill(model, OPENING), multiple) if mask_of else []
    text.set_attn_implementation(implementation)
    embeddings.requires_grad_()
    front = past[0][0].shape[2] if past else 0
    given = {}
    if mask_of:
        given = {"attention_mask": mask_of(rows, front, embeddings.dtype), "position_ids": rows.positions}
    states = [(keys.expand(len(members), -1, -1, -1), values.expand(len(members), -1, -1, -1)) for keys, values in past]

    def forward() -> torch.Tensor:
        cache = {CACHE: DynamicCache(states)} if states else {}
        return text(inputs_embeds=embeddings, use_cache=False, **given, **cache).last_hidden_state

    along = torch.ones_like(embeddings)
    layers = text.config.num_hidden_layers
    memory = check.peak_gib(lambda: forward().backward(along))
    took = check.pipelined(lambda: forward().backward(along), 1 if check.smoke else 10) / layers
    found = forward().detach().flatten(0, 1)[rows.label_at]
    values: dict[str, Any] = {} if exact is None else {"differs_by": relative_error(found, exact)}
    width = rows.ids.shape[1]
    shape = f"{len(members)} x {width} x {front + width}"
    check.note("bridge", f"layer, {name}", shape=shape, ms=1e3 * took, peak_gib=memory, **values)
    return found
