"""Time, memory and error of `pretrain.sigreg` against the plain formulation. See scripts/bench_sigreg.py."""

from collections.abc import Callable
from functools import partial

import torch

from bench.harness import Comparison, Goals, PeakMemory, alone, compare, header, row
from bench.settings import COMPILED_BATCH, SIGREG_CASES, SigregBench, SigregCase
from pretrain.sigreg import random_directions, sigreg
from vlm.errors import UserError

DIRECTIONS = 4096
VALUE_ERROR, GRADIENT_ERROR = 3e-6, 2e-6
COMPILED_RATIO = 1.2
Sigreg = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def plain_sigreg(z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The definition, left to autograd: float[B, D], float[D, P] -> float[]. It stores several (B, P, 17)."""
    spacing = 3 / 16
    knots = torch.arange(17, dtype=z.dtype) * spacing
    phi = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * spacing)
    weights[0] = weights[-1] = spacing
    angles = (z @ directions).unsqueeze(-1) * knots  # [B, P, 17]
    deviations = (angles.cos().mean(0) - phi).square() + angles.sin().mean(0).square()  # [P, 17]
    return len(z) * (deviations @ (weights * phi)).mean()


def inputs(case: SigregCase) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings float32[B, D] and directions float32[D, P]."""
    generator = torch.Generator().manual_seed(case.batch)
    z = torch.randn(case.batch, case.dim, generator=generator)
    return z, random_directions(case.dim, DIRECTIONS, seed=0, step=0, modality="image")


def value_and_gradient(
    function: Sigreg, z: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scalar, and its gradient with respect to z: float[B, D]."""
    z = z.detach().requires_grad_()
    value = function(z, directions)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def measure_time(case: SigregCase, threads: int, pairs: int, compiled: bool) -> Comparison:
    """Time sigreg against the plain formulation, compiled or not."""
    torch.set_num_threads(threads)
    z, directions = inputs(case)
    reference = torch.compile(plain_sigreg) if compiled else plain_sigreg
    return compare(
        partial(value_and_gradient, reference, z, directions),
        partial(value_and_gradient, sigreg, z, directions),
        pairs,
    )


def measure_memory(case: SigregCase, threads: int, function: Sigreg) -> float:
    """Growth of the peak resident size, in MB, in a fresh process's first forward and backward at this size."""
    torch.set_num_threads(threads)
    z, directions = inputs(case)
    value_and_gradient(function, z[:8], directions[:, :8])  # loads code, hardly any data
    with PeakMemory() as memory:
        value_and_gradient(function, z, directions)
    return memory.growth


def measure_error(case: SigregCase, threads: int) -> tuple[float, float]:
    """Relative error of sigreg's value, and of its gradient (L2 norm), against the plain formulation in float64."""
    torch.set_num_threads(threads)
    z, directions = inputs(case)
    value, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(z, dtype=torch.float64)
    # Some directions at a time, or [B, P, 17] would take gigabytes. The value is a mean over all directions.
    for part in directions.double().split((1 << 18) // case.batch, dim=1):
        part_value, part_gradient = value_and_gradient(plain_sigreg, z.double(), part)
        share = part.shape[1] / DIRECTIONS
        value += share * part_value
        gradient += share * part_gradient
    got_value, got_gradient = value_and_gradient(sigreg, z, directions)
    return abs(got_value / value - 1).item(), ((got_gradient - gradient).norm() / gradient.norm()).item()


def compare_with_plain(cases: list[SigregCase], threads: int, pairs: int | None, goals: Goals) -> None:
    """Print speed and memory of every case, then the errors."""
    header("B, D", "plain ms", "sigreg ms", "time ratio", "hoped for", "plain MB", "sigreg MB", "memory ratio")
    errors = []
    for case in cases:
        times = alone(measure_time, case, threads, pairs or case.pairs, False)
        plain, ours = (alone(measure_memory, case, threads, function) for function in (plain_sigreg, sigreg))
        errors.append(alone(measure_error, case, threads))
        row(
            f"{case.batch}, {case.dim}",
            f"{1e3 * times.reference:.1f}",
            f"{1e3 * times.ours:.1f}",
            goals.at_least(times.ratio, case.time),
            f"{case.stretch:g}x",
            f"{plain:.0f}",
            f"{ours:.1f}",
            goals.at_least(plain / max(ours, 0.1), case.memory),
        )
    print()
    header("B, D", "error of the value", "error of the gradient")
    for case, (value, gradient) in zip(cases, errors):
        row(f"{case.batch}, {case.dim}", goals.at_most(value, VALUE_ERROR), goals.at_most(gradient, GRADIENT_ERROR))


def compare_with_compiled(cases: list[SigregCase], threads: int, pairs: int | None, goals: Goals) -> None:
    """Print the speed against torch.compile of the plain formulation."""
    print()
    header("B, D", "torch.compile of plain ms", "sigreg ms", "time ratio", "first compiled call s")
    for case in cases:
        times = alone(measure_time, case, threads, pairs or case.pairs, True)
        row(
            f"{case.batch}, {case.dim}",
            f"{1e3 * times.reference:.1f}",
            f"{1e3 * times.ours:.1f}",
            goals.at_least(times.ratio, COMPILED_RATIO),
            f"{times.first_call:.0f}",
        )


def run(settings: SigregBench) -> Goals:
    """Measure what the settings ask for, print the tables, and return the verdicts.

    Raises: UserError if --compile without a case at the batch it compares.
    """
    cases = [SIGREG_CASES[name] for name in settings.cases]
    small = [case for case in cases if case.batch == COMPILED_BATCH]
    if settings.compile and not small:
        raise UserError(
            f"--compile compares at B = {COMPILED_BATCH}, given --cases {' '.join(settings.cases)}; add 256x256"
        )
    print(f"Forward + backward, P = {DIRECTIONS}, {settings.threads} thread(s), torch {torch.__version__}\n")
    goals = Goals()
    compare_with_plain(cases, settings.threads, settings.pairs, goals)
    if settings.compile:
        compare_with_compiled(small, settings.threads, settings.pairs, goals)
    return goals
