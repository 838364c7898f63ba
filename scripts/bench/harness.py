"""One harness for every bench: ours and a reference measured in turn, peak memory, tables, verdicts, the exit code."""

import contextlib
import importlib
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlm.run.settings import parse

T = TypeVar("T")


def take_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call every way once in each of `rounds` rounds; returns the results of each way.

    A busy moment of the machine then falls on all ways alike, and not on the one that happened to run.
    """
    results: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            results[name].append(way())
    return results


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time one call. clock: wall time, or `time.process_time` or `time.thread_time` for CPU time."""
    start = clock()
    function()
    return clock() - start


def median_ratio(reference: Sequence[float], ours: Sequence[float]) -> float:
    """The median over the rounds of reference / ours: above 1, ours is faster."""
    return statistics.median(slow / fast for slow, fast in zip(reference, ours))


@dataclass(frozen=True)
class Comparison:
    """Seconds of a reference and of ours: medians, the median of the rounds' ratios, the reference's first call."""

    reference: float
    ours: float
    ratio: float
    first_call: float


def compare(
    reference: Callable[[], Any], ours: Callable[[], Any], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Comparison:
    """Time the two in turn, after one call of each that warms up."""
    first_call = seconds(reference, clock)
    ours()
    ways = {"reference": lambda: seconds(reference, clock), "ours": lambda: seconds(ours, clock)}
    times = take_turns(ways, rounds)
    return Comparison(
        reference=statistics.median(times["reference"]),
        ours=statistics.median(times["ours"]),
        ratio=median_ratio(times["reference"], times["ours"]),
        first_call=first_call,
    )


class PeakMemory:
    """How far this process's resident memory grows inside a `with` block: `before` and `growth`, in MB."""

    before = growth = 0.0

    def __enter__(self) -> "PeakMemory":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak up to here
        self.before = _resident_peak()
        return self

    def __exit__(self, *_: object) -> None:
        self.growth = _resident_peak() - self.before


def _resident_peak() -> float:
    """Highest resident size in MB, since it was last forgotten."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the parent's peak, which a spawned process inherits
        peak_kib = int(status.read_text().split("VmHWM:")[1].split()[0])
        return peak_kib * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """Run in a process of its own: peaks, heaps and compiled code do not reach the next measurement."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def row(*cells: object) -> None:
    """Print a row of a Markdown table, as soon as it is known."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(*names: str) -> None:
    """Print a Markdown table's head."""
    row(*names)
    row(*["---"] * len(names))


def verdict(reached: bool) -> str:
    """PASS or FAIL."""
    return "PASS" if reached else "FAIL"


class Goals:
    """A bench's goals: each is given its verdict, and the exit code is 1 if one was missed."""

    def __init__(self) -> None:
        self.all_reached = True

    def judge(self, reached: bool) -> str:
        """PASS or FAIL, which the exit code remembers."""
        self.all_reached = self.all_reached and bool(reached)
        return verdict(reached)

    def at_least(self, ratio: float, needed: float) -> str:
        """A table's cell: 5.12x (needed 5x: PASS)."""
        return f"{ratio:.2f}x (needed {needed:g}x: {self.judge(ratio >= needed)})"

    def at_most(self, error: float, allowed: float) -> str:
        """A table's cell: 2.1e-07 (allowed 3e-06: PASS)."""
        return f"{error:.1e} (allowed {allowed:g}: {self.judge(error <= allowed)})"

    def exit(self) -> None:
        """End the process with code 1 if a goal was missed."""
        if not self.all_reached:
            sys.exit(1)


def run_bench(name: str, settings: type, about: str | None, examples: str) -> None:
    """The command scripts/bench_NAME.py: read its flags, run bench.NAME, and exit by its goals."""
    flags = parse(settings, prog=f"scripts/bench_{name}.py", about=about or "", examples=examples)
    bench = importlib.import_module(f"bench.{name}")  # after parsing: --help does not wait for torch
    bench.run(flags).exit()
