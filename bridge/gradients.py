"""One training step: gradients over all ranks, then the optimizer."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from bridge.data.batches import StepData
from bridge.forward import KeysAndValues, loss_sum, prefill, shared_prefill
from bridge.parts import Trainee
from vlm.distributed import all_sum

Constant = Callable[[], AbstractContextManager[KeysAndValues]]  # gives a step the states of the text before the image


def constant_text(trainee: Trainee, ids: Sequence[int]) -> Constant:
    """The states of `ids`, computed once if the language model stays as it is, in each step if LoRA changes it."""
    if trainee.adapter is not None:
        return lambda: shared_prefill(trainee.model, ids)
    with torch.no_grad():
        past = prefill(trainee.model, ids)
    return lambda: nullcontext(past)


@dataclass(frozen=True)
class Sums:
    """What a step amounts to over all ranks; `loss` is the mean over its answer tokens."""

    loss: float
    answer_tokens: int
    tokens: int
    questions: int
    bad: int  # questions that were left out
    stop: bool


def backward(trainee: Trainee, data: StepData, constant: Constant, stop: bool) -> Sums:
    """Leave in every `grad` the gradient of the mean loss over all answer tokens of the step, whichever rank has them.

    Ranks have different numbers of answer tokens, so a mean of their means would be another loss. Instead:

        rank 0: losses of 30 tokens add up to 60       rank 1: losses of 10 tokens add up to 40
        loss = (60 + 40) / (30 + 10) = 2.5,            gradient = (g0 + g1) / 40 with g of the sums

    stop: whether this rank was told to end; `Sums.stop` then is True on every rank, in the same step.
    """
    weights = list(trainee.weights.values())
    device = weights[0].device
    loss, answers = 0.0, 0
    with constant() as past:
        for batch in data.batches:
            batch_loss = loss_sum(trainee.model, batch.rows.to(device), batch.features, past)
            if batch_loss.requires_grad:  # not for text alone, unless LoRA is trained
                batch_loss.backward()  # adds to what the micro-batches before have left in `grad`
            loss += batch_loss.item()
            answers += len(batch.rows.labels)
    counts = torch.tensor([loss, answers, data.tokens, data.questions, len(data.bad), stop], dtype=torch.float64)
    loss, answers, tokens, questions, bad, stopping = all_sum(counts.to(device)).tolist()
    # The gradients are added as one vector: one exchange between the ranks in place of one a weight. A rank without a
    # share of the step has no gradient, and takes part with zeros.
    own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    mean = all_sum(torch.cat([gradient.flatten() for gradient in own])) / max(1, answers)  # [elements of all weights]
    for weight, gradient in zip(weights, mean.split([weight.numel() for weight in weights])):
        weight.grad = gradient.view_as(weight)
    return Sums(loss / max(1, answers), int(answers), int(tokens), int(questions), int(bad), stopping > 0)


def update(
    weights: Iterable[torch.nn.Parameter], optimizer: torch.optim.Optimizer, loss: float, clip: float
) -> float | None:
    """Take one optimizer step -> the gradients' norm before clipping; None, and nothing moved, if it is not finite.
    clip: the largest norm, 0 for any.
    """
    norm = torch.nn.utils.clip_grad_norm_(list(weights), clip or math.inf).item()
    finite = math.isfinite(norm) and math.isfinite(loss)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm if finite else None
