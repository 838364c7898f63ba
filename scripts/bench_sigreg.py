"""Time, memory and error of `pretrain.sigreg` against the plain formulation, which stores every harmonic."""

import argparse
import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tables import row, verdict

from pretrain.sigreg import random_directions, sigreg
from vlm.errors import UserError, run_command

DIRECTIONS = 4096
VALUE_ERROR, GRADIENT_ERROR = 3e-6, 2e-6
COMPILED_RATIO, COMPILED_BATCH = 1.2, 256
EXAMPLES = """examples:
  python scripts/bench_sigreg.py                              # all four sizes: some minutes, 7 GB of memory
  python scripts/bench_sigreg.py --cases 256x256 --pairs 21
  python scripts/bench_sigreg.py --cases 256x256 --compile    # also against torch.compile of the plain formulation
"""


@dataclass(frozen=True)
class Case:
    """A size, the ratios plain / sigreg that it must reach (and the time ratio hoped for), and how often to time it."""

    batch: int
    dim: int
    time: float
    stretch: float
    memory: float
    pairs: int

    @property
    def name(self) -> str:
        return f"{self.batch}x{self.dim}"


CASES = {
    case.name: case
    for case in (
        Case(256, 256, 12, 30, 40, 9),
        Case(256, 768, 8, 12.5, 40, 9),
        Case(1024, 768, 8, 12, 60, 5),
        Case(4096, 768, 8, 13, 60, 3),
    )
}


def plain_sigreg(z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The definition, left to autograd: float[B, D], float[D, P] -> float[]. It stores several (B, P, 17)."""
    spacing = 3 / 16
    knots = torch.arange(17, dtype=z.dtype) * spacing
    phi = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * spacing)
    weights[0] = weights[-1] = spacing
    angles = (z @ directions).unsqueeze(-1) * knots
    deviations = (angles.cos().mean(0) - phi).square() + angles.sin().mean(0).square()
    return len(z) * (deviations @ (weights * phi)).mean()


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(case.batch)
    z = torch.randn(case.batch, case.dim, generator=generator)
    return z, random_directions(case.dim, DIRECTIONS, seed=0, step=0, modality="image")


def value_and_gradient(function: Callable, z: torch.Tensor, directions: torch.Tensor):
    z = z.detach().requires_grad_()
    value = function(z, directions)
    value.backward()
    return value.detach(), z.grad


def seconds(function: Callable, *arguments) -> float:
    start = time.perf_counter()
    value_and_gradient(function, *arguments)
    return time.perf_counter() - start


def measure_time(case: Case, threads: int, pairs: int, compiled: bool) -> dict[str, float]:
    """Time the two in turn, so that both see the same machine; the ratio is the median of the pairs' ratios."""
    torch.set_num_threads(threads)
    z, directions = inputs(case)
    other = torch.compile(plain_sigreg) if compiled else plain_sigreg
    first = seconds(other, z, directions)
    seconds(sigreg, z, directions)
    times = [(seconds(other, z, directions), seconds(sigreg, z, directions)) for _ in range(pairs)]
    return {
        "other_ms": 1e3 * statistics.median(t[0] for t in times),
        "sigreg_ms": 1e3 * statistics.median(t[1] for t in times),
        "ratio": statistics.median(t[0] / t[1] for t in times),
        "first_s": first,
    }


def resident_peak() -> float:
    """Highest resident size of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure_memory(case: Case, threads: int, function: Callable) -> float:
    """Growth of the peak resident size, in MB, in a fresh process's first forward and backward at this size."""
    torch.set_num_threads(threads)
    z, directions = inputs(case)
    value_and_gradient(function, z[:8], directions[:, :8])  # loads code, hardly any data
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak of the imports
    before = resident_peak()
    value_and_gradient(function, z, directions)
    return resident_peak() - before


def measure_error(case: Case, threads: int) -> tuple[float, float]:
    """Relative error of sigreg's value, and of its gradient (L2 norm), against the plain formulation in float64."""
    torch.set_num_threads(threads)
    z, directions = inputs(case)
    value, gradient = 0.0, 0.0
    for part in directions.double().split((1 << 18) // case.batch, dim=1):
        part_value, part_gradient = value_and_gradient(plain_sigreg, z.double(), part)
        value += part_value * (part.shape[1] / DIRECTIONS)
        gradient += part_gradient * (part.shape[1] / DIRECTIONS)
    got_value, got_gradient = value_and_gradient(sigreg, z, directions)
    return abs(got_value / value - 1).item(), ((got_gradient - gradient).norm() / gradient.norm()).item()


def alone(function: Callable, *arguments):
    """Run in a process of its own: peaks, heaps and compiled code do not reach the next measurement."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare_with_plain(cases: list[Case], threads: int, pairs: int | None) -> bool:
    row("B, D", "plain ms", "sigreg ms", "time ratio", "needed (stretch)", "plain MB", "sigreg MB", "memory ratio")
    row(*["---"] * 8)
    errors, passed = [], True
    for case in cases:
        times = alone(measure_time, case, threads, pairs or case.pairs, False)
        plain, ours = (alone(measure_memory, case, threads, function) for function in (plain_sigreg, sigreg))
        errors.append(alone(measure_error, case, threads))
        fast, small = times["ratio"] >= case.time, plain >= case.memory * ours
        passed &= fast and small
        row(
            f"{case.batch}, {case.dim}",
            f"{times['other_ms']:.1f}",
            f"{times['sigreg_ms']:.1f}",
            f"{times['ratio']:.1f}x {verdict(fast)}",
            f"{case.time:g}x ({case.stretch:g}x)",
            f"{plain:.0f}",
            f"{ours:.1f}",
            f"{plain / max(ours, 0.1):.0f} (needed {case.memory:g}) {verdict(small)}",
        )
    print()
    row("B, D", f"value error (needed {VALUE_ERROR:g})", f"gradient error (needed {GRADIENT_ERROR:g})", "verdict")
    row(*["---"] * 4)
    for case, (value, gradient) in zip(cases, errors):
        exact = value <= VALUE_ERROR and gradient <= GRADIENT_ERROR
        passed &= exact
        row(f"{case.batch}, {case.dim}", f"{value:.1e}", f"{gradient:.1e}", verdict(exact))
    return passed


def compare_with_compiled(cases: list[Case], threads: int, pairs: int | None) -> bool:
    print()
    row("B, D", "torch.compile of plain ms", "sigreg ms", "time ratio", "needed", "first compiled call s")
    row(*["---"] * 6)
    passed = True
    for case in cases:
        times = alone(measure_time, case, threads, pairs or case.pairs, True)
        fast = times["ratio"] >= COMPILED_RATIO
        passed &= fast
        row(
            f"{case.batch}, {case.dim}",
            f"{times['other_ms']:.1f}",
            f"{times['sigreg_ms']:.1f}",
            f"{times['ratio']:.1f}x {verdict(fast)}",
            f"{COMPILED_RATIO}x",
            f"{times['first_s']:.0f}",
        )
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="sizes BxD (default: all)")
    parser.add_argument("--pairs", type=int, help="timed pairs of every case (default: 9, 9, 5, 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help=f"also time torch.compile of the plain formulation at B = {COMPILED_BATCH} (needs a C++ compiler)",
    )
    args = parser.parse_args()
    if args.threads < 1 or (args.pairs is not None and args.pairs < 1):
        raise UserError(f"--threads {args.threads} and --pairs {args.pairs} must be at least 1")
    cases = [CASES[name] for name in args.cases]
    small = [case for case in cases if case.batch == COMPILED_BATCH]
    if args.compile and not small:
        raise UserError(
            f"--compile compares at B = {COMPILED_BATCH}, given --cases {' '.join(args.cases)}; add 256x256"
        )
    print(f"Forward + backward, P = {DIRECTIONS}, {args.threads} thread(s), torch {torch.__version__}\n")
    passed = compare_with_plain(cases, args.threads, args.pairs)
    if args.compile:
        passed &= compare_with_compiled(small, args.threads, args.pairs)
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
