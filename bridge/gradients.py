"""One training step: gradients over all ranks, then the optimizer. Nothing of it is read back from the device."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from bridge.data.balance import WIDTH
from bridge.data.batches import StepData
from bridge.forward import KeysAndValues, loss_sum, padded, prefill, shared_prefill
from bridge.parts import Trainee
from vlm.device import sent
from vlm.distributed import all_sum

UNFLAGGED = ("mps",)  # devices whose fused AdamW moves the weights whatever `found_inf` says (pytorch pull 186360)

PrefilledOpening = Callable[[], AbstractContextManager[KeysAndValues]]  # `with` it, a step has the opening's states


def prefilled_opening(trainee: Trainee, opening_ids: Sequence[int]) -> PrefilledOpening:
    """The opening's states, computed once if the language model stays as it is, in each step if LoRA changes it."""
    if trainee.adapter is not None:

        @contextmanager
        def anew():
            with shared_prefill(trainee.model, opening_ids) as states:
                yield padded(states, WIDTH)

        return anew
    with torch.no_grad():
        states = padded(prefill(trainee.model, opening_ids), WIDTH)
    return lambda: nullcontext(states)


class Numbers(NamedTuple):
    """What a step amounts to over all ranks. Each is a number, or a float32 scalar that is still on the device."""

    loss: Any  # summed over the answer tokens
    answers: Any  # tokens that are learnt
    tokens: Any
    questions: Any
    left_out: Any  # questions


@dataclass(frozen=True)
class Sums:
    """The `Numbers` of a step on the device, float32[5]."""

    values: torch.Tensor

    @property
    def loss(self) -> torch.Tensor:
        """The mean over the step's answer tokens; NaN if unreadable images left none: then `update` moves nothing."""
        numbers = Numbers(*self.values.unbind())
        return numbers.loss / numbers.answers


def backward(trainee: Trainee, data: StepData, opening: PrefilledOpening) -> Sums:
    """Leave in every `grad` the gradient of the mean loss over all answer tokens of the step, whichever rank has them.

    Ranks have different numbers of answer tokens, so a mean of their means would be another loss. Instead:

        rank 0: losses of 30 tokens add up to 60       rank 1: losses of 10 tokens add up to 40
        loss = (60 + 40) / (30 + 10) = 2.5,            gradient = (g0 + g1) / 40 with g of the sums
    """
    weights = list(trainee.weights.values())
    device = weights[0].device
    loss, answers = torch.zeros((), device=device), 0  # float32: Apple's GPUs have nothing longer
    with opening() as opening_states:
        for batch in data.batches:
            rows = batch.rows.to(device)
            batch_loss = loss_sum(trainee.model, rows, batch.features, opening_states, trainee.stack)
            if batch_loss.requires_grad:  # not for text alone, unless LoRA is trained
                batch_loss.backward()  # adds to what the micro-batches before have left in `grad`
            loss += batch_loss.detach()
            answers += len(batch.rows.labels)
    counts = torch.tensor([answers, data.tokens, data.questions, len(data.left_out)], dtype=torch.float32)
    if device.type == "cuda":
        counts = counts.pin_memory()
    # Sums and gradients are added as one vector: one exchange between the ranks in place of one a weight. A rank
    # without a share of the step has no gradient, and takes part with zeros.
    own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    parts = [loss[None], sent(counts, device), *(gradient.flatten() for gradient in own)]
    whole = all_sum(torch.cat(parts))  # [5 + elements of all weights]
    numbers = len(Numbers._fields)
    sums = Sums(whole[:numbers].clone())
    mean = whole[numbers:] / whole[Numbers._fields.index("answers")].clamp(min=1)
    for weight, gradient in zip(weights, mean.split([weight.numel() for weight in weights])):
        weight.grad = gradient.view_as(weight)
    return sums


def update(weights: Iterable[torch.nn.Parameter], optimizer: Any, loss: torch.Tensor, clip: float) -> torch.Tensor:
    """Take one optimizer step -> the gradients' norm before clipping. Nothing moves if norm or loss is not finite.

    optimizer: a fused one, which looks at `found_inf` on the device itself. clip: the largest norm, 0 for any.
    """
    norm = torch.nn.utils.clip_grad_norm_(list(weights), clip or math.inf)
    not_finite = ~(norm.isfinite() & loss.isfinite())
    optimizer.found_inf = not_finite.float()
    if norm.device.type not in UNFLAGGED or not not_finite:  # only there the host reads the flag, and waits for it
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
