"""Questions per second and memory of the bridge's training step against LLaVA's way, on one machine in one run.

LLaVA's way is the stock model with labels: every question is a sequence with the image in it, padded in a batch,
through the vision tower in every step, with logits at every position. The bridge's way is this project's: cached
features, all questions of an image in one row, logits where labels are. Both train the connector alone, by AdamW.

Sizes are ViT-B/16's and Qwen2.5-1.5B's, with random weights and few of the 28 layers. Few layers flatter the bridge,
which computes hardly any logits, so both ways are also given for all 28: the layers are alike, and what each misses is
added at the measured time of one. Questions share no words here; real ones do ("Is there a"), which the bridge uses.

Memory is the growth of the peak resident size in the first step of a fresh process, after model and data are loaded.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from bridge_flops import step_flops
from bridge_ways import ANSWER, OPENING, SLOTS, TEXT, Bridge, Llava, Way, conversations, model_config, pack
from tables import row, verdict

from vlm.errors import UserError, run_command
from vlm.llms.precision import default_dtype

LAYERS = 28
MEMORY = 2  # ratio needed
ERROR = 1e-4  # allowed between the two ways' losses and gradients in fp32, relative
GPU, PEAK, UTILISATION = "H100 SXM in bf16", 989e12, 0.4
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
EXAMPLES = """examples:
  python scripts/bench_bridge.py                      # both cases, about 10 GB of memory
  python scripts/bench_bridge.py --cases vqav2 --dtype fp32 --pairs 5
  python scripts/bench_bridge.py --full               # the bridge alone, all 28 layers in bf16, about 6 GB
"""


@dataclass(frozen=True)
class Case:
    """Questions of each image of a step, the ratio of speeds that is needed, and the size of the data set's pass."""

    name: str
    questions: tuple[int, ...]
    needed: float
    total_questions: int
    total_images: int


CASES = {
    case.name: case
    for case in (
        Case("gqa", (13,), 5, 943_000, 72_140),
        Case("vqav2", (5, 5, 6), 3.5, 443_757, 82_783),
    )
}


class LayerClock:
    """Seconds of a step inside the decoder layers, forward and backward."""

    def __init__(self, layers: torch.nn.ModuleList):
        self.seconds = 0.0
        layers[0].register_forward_pre_hook(lambda _, inputs: self._enter(inputs[0]))
        layers[-1].register_forward_hook(lambda _, inputs, output: self._leave(output))

    def _enter(self, hidden: torch.Tensor) -> None:
        hidden.register_hook(lambda _: self._stop())
        self._start = time.perf_counter()

    def _leave(self, hidden: torch.Tensor) -> None:
        self._stop()
        hidden.register_hook(lambda _: setattr(self, "_start", time.perf_counter()))

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self._start


def timed(way: Way, clock: LayerClock) -> tuple[float, float]:
    """Seconds of one step, as measured and as they would be with all layers."""
    clock.seconds, start = 0.0, time.perf_counter()
    way.step()
    seconds = time.perf_counter() - start
    few = way.model.config.text_config.num_hidden_layers
    return seconds, seconds + clock.seconds * (LAYERS - few) / few


def summary(case: Case, pairs: list[list[float]]) -> tuple[float, float, float]:
    """(seconds of LLaVA's way, of the bridge's) -> questions per second of each, and the ratio."""
    rates = [sum(case.questions) / statistics.median(seconds) for seconds in zip(*pairs)]
    return *rates, statistics.median(llava / bridge for llava, bridge in pairs)


def measure_time(case: Case, layers: int, dtype: torch.dtype, pairs: int, threads: int) -> dict[str, tuple]:
    """Time the two in turn, so that both see the same machine; ratios are medians of the pairs' ratios."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        ways = [make(layers, dtype, case.questions, Path(folder)) for make in (Llava, Bridge)]
        clocks = [LayerClock(way.layers) for way in ways]
        runs = [[timed(way, clock) for way, clock in zip(ways, clocks)] for _ in range(1 + pairs)]
    return {  # the first pair warms up
        name: summary(case, [[step[i] for step in pair] for pair in runs[1:]])
        for i, name in enumerate(("measured", "full"))
    }


def resident(field: str) -> float:
    """VmRSS or VmHWM (its peak) of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def memory(way: Way) -> tuple[float, float]:
    """MB that are resident before a way's first step, and by how much its peak exceeds them."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the loading
    before = resident("VmRSS")
    way.step()
    return before, resident("VmHWM") - before


def measure_memory(make: type[Way], case: Case, layers: int, dtype: torch.dtype, threads: int) -> float:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        return memory(make(layers, dtype, case.questions, Path(folder)))[1]


def measure_whole(case: Case, dtype: torch.dtype, threads: int) -> tuple[float, float, float]:
    """The bridge with every layer: MB before and in a step, and the seconds of the step after it."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        way = Bridge(LAYERS, dtype, case.questions, Path(folder))
        loaded, growth = memory(way)
        start = time.perf_counter()
        way.step()
        return loaded, growth, time.perf_counter() - start


def measure_error(threads: int) -> tuple[float, float]:
    """Relative difference between the two ways' losses, and between their gradients (L2 norm), in fp32."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        ways = [make(2, torch.float32, (2, 1), Path(folder)) for make in (Llava, Bridge)]
        losses = [way.backward() for way in ways]
    llava, bridge = (way.gradient() for way in ways)
    return abs(losses[1] / losses[0] - 1), ((bridge - llava).norm() / llava.norm()).item()


def case_flops(case: Case, layers: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of one step of LLaVA's way and of the bridge's, on the case's own questions."""
    config, images = model_config(layers), conversations(case.questions)
    lengths = [len(item.ids) for items in images for item in items]
    labels = sum(len(item.ids) - item.prompt for items in images for item in items)
    count, longest = len(lengths), max(lengths)
    llava = step_flops(config, count, longest, longest, count * longest, count, count)
    rows = [row for rows in pack(images) for row in rows]
    width = max(len(row.ids) for row in rows)
    bridge = step_flops(config, len(rows), width, width + len(OPENING), labels, len(images), 0)
    return llava, bridge


def pass_flops(case: Case) -> dict[str, float]:
    """Of one pass over the case's whole data set by the bridge, on average questions, encoding each image once."""
    asked = case.total_questions / case.total_images
    width = SLOTS + asked * (statistics.mean(range(*TEXT)) - len(OPENING) - 1)
    labels = case.total_questions * (statistics.mean(range(*ANSWER)) + 1)
    images = case.total_images
    return step_flops(model_config(LAYERS), images, width, width + len(OPENING), labels, images, images)


def alone(function: Callable, *arguments):
    """Run in a process of its own: peaks and heaps do not reach the next measurement."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare(cases: list[Case], args: argparse.Namespace, dtype: torch.dtype) -> bool:
    loss, gradient = alone(measure_error, args.threads)
    passed = max(loss, gradient) <= ERROR
    print(
        f"fp32, the same questions: losses differ by {loss:.1e}, the connector's gradients by {gradient:.1e} "
        f"(allowed {ERROR:g}): {verdict(passed)}\n"
    )
    row("case", "layers", "LLaVA q/s", "bridge q/s", "ratio", "by FLOPs", "needed")
    row(*["---"] * 7)
    for case in cases:
        times = alone(measure_time, case, args.layers, dtype, args.pairs, args.threads)
        for layers in dict.fromkeys((args.layers, LAYERS)):
            llava, bridge, ratio = times["measured" if layers == args.layers else "full"]
            limit = sum(case_flops(case, layers)[0].values()) / sum(case_flops(case, layers)[1].values())
            needed = f"{case.needed:g}x {verdict(ratio >= case.needed)}"
            passed &= ratio >= case.needed
            row(case.name, layers, f"{llava:.3f}", f"{bridge:.3f}", f"{ratio:.2f}x", f"{limit:.2f}x", needed)
    print()
    row("case", "LLaVA's step MB", "bridge's step MB", "ratio", "needed")
    row(*["---"] * 5)
    for case in cases:
        llava, bridge = (
            alone(measure_memory, make, case, args.layers, dtype, args.threads) for make in (Llava, Bridge)
        )
        small = llava >= MEMORY * bridge
        passed &= small
        row(case.name, f"{llava:.0f}", f"{bridge:.0f}", f"{llava / bridge:.1f}x", f"{MEMORY}x {verdict(small)}")
    return passed


def whole(cases: list[Case], dtype: torch.dtype, threads: int) -> None:
    """The bridge alone with every layer, and what a pass over the data sets would take elsewhere."""
    row("case", "bridge q/s", "GFLOP/s", "loaded MB", "step MB")
    row(*["---"] * 5)
    for case in cases:
        loaded, growth, seconds = alone(measure_whole, case, dtype, threads)
        rate = sum(case_flops(case, LAYERS)[1].values()) / seconds / 1e9
        row(case.name, f"{sum(case.questions) / seconds:.3f}", f"{rate:.0f}", f"{loaded:.0f}", f"{growth:.0f}")
    print("\nOne pass over all questions, 1e15 floating-point operations by part:\n")
    total, names = 0.0, list(pass_flops(cases[0]))
    row("data set", "questions", "images", *names, "sum")
    row(*["---"] * (len(names) + 4))
    for case in cases:
        parts = pass_flops(case)
        total += sum(parts.values())
        cells = [f"{value / 1e15:.2f}" for value in (*parts.values(), sum(parts.values()))]
        row(case.name, f"{case.total_questions:,}", f"{case.total_images:,}", *cells)
    minutes = total / (PEAK * UTILISATION) / 60
    print(
        f"\n{total:.3g} operations at {UTILISATION:.0%} of the {PEAK / 1e12:.0f} TFLOP/s of one {GPU}: "
        f"{minutes:.0f} minutes, not counting the decoding of the images."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="questions an image (both)")
    parser.add_argument("--layers", type=int, default=2, help="of the LLM in the comparison (default 2)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the frozen parts (bf16 where the CPU is fast at it)")
    parser.add_argument("--pairs", type=int, default=3, help="timed pairs of steps (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default %(default)s)")
    parser.add_argument("--full", action="store_true", help="measure the bridge alone with all layers")
    args = parser.parse_args()
    if min(args.layers, args.pairs, args.threads) < 1 or args.layers > LAYERS:
        raise UserError(
            f"--layers {args.layers}, --pairs {args.pairs}, --threads {args.threads}: each must be at least 1, and "
            f"--layers at most {LAYERS}"
        )
    cases = [CASES[name] for name in args.cases]
    dtype = DTYPES[args.dtype] if args.dtype else torch.bfloat16 if args.full else default_dtype("cpu")
    print(f"{args.threads} thread(s), {str(dtype)[6:]}, torch {torch.__version__}\n")
    if args.full:
        whole(cases, dtype, args.threads)
    elif not compare(cases, args, dtype):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
