"""The bridge's training step against the stock model's, one question a sequence. See scripts/bench_bridge.py."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import LlavaConfig

from bench.bridge_flops import bridge_flops, merged_flops, pass_flops, reference_flops
from bench.bridge_host import measure as measure_host
from bench.bridge_ways import Bridge, MergedConversation, OneQuestionASequence, Way, frozen_model, model_config
from bench.harness import Goals, PeakMemory, alone, header, median_ratio, row, seconds, take_turns
from bench.settings import BRIDGE_CASES, BRIDGE_LAYERS, BridgeBench, BridgeCase
from vlm.llms.precision import default_dtype

MEMORY = 2  # ratio needed
ERROR = 1e-4  # allowed between the two ways' losses and gradients in fp32, relative
GPU, PEAK, UTILISATION = "H100 SXM in bf16", 989e12, 0.4
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
REFERENCE, MERGED = "one question a sequence", "one conversation an image (LLaVA-1.5)"


class LayerClock:
    """Seconds of a step inside the decoder layers, forward and backward.

    Forward: from the input of the first layer to the output of the last. Backward: from the gradient of that output to
    the gradient of that input.
    """

    def __init__(self, layers: torch.nn.ModuleList):
        self.seconds = self._started = 0.0
        layers[0].register_forward_pre_hook(lambda _, inputs: self._enter(inputs[0]))
        layers[-1].register_forward_hook(lambda _, inputs, output: self._leave(output))

    def _enter(self, hidden: torch.Tensor) -> None:
        hidden.register_hook(lambda _: self._stop())
        self._start()

    def _leave(self, hidden: torch.Tensor) -> None:
        self._stop()
        hidden.register_hook(lambda _: self._start())

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


def timed(way: Way, clock: LayerClock) -> tuple[float, float]:
    """Seconds of one step, as measured and as they would be with all layers."""
    clock.seconds = 0.0
    measured = seconds(way.step)
    few = len(way.layers)
    return measured, measured + clock.seconds * (BRIDGE_LAYERS - few) / few


@dataclass(frozen=True)
class Rates:
    """Questions per second of both references and of the bridge, and the medians of the rounds' ratios."""

    reference: float
    merged: float
    bridge: float
    ratio: float
    merged_ratio: float


def measure_time(case: BridgeCase, layers: int, dtype: torch.dtype, pairs: int, threads: int) -> dict[int, Rates]:
    """Time the three in turn: the rates with `layers` layers as measured, and with all of them."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        kinds = {REFERENCE: OneQuestionASequence, MERGED: MergedConversation, "bridge": Bridge}
        ways: dict[str, Way] = {}
        for name, kind in kinds.items():
            ways[name] = kind(frozen_model(model_config(layers), dtype), case.questions, Path(folder))
        steps = {name: partial(timed, way, LayerClock(way.layers)) for name, way in ways.items()}
        times = take_turns(steps, 1 + pairs)
    rates = {}
    for kind, count in enumerate((layers, BRIDGE_LAYERS)):  # the order of what `timed` returns
        reference = [step[kind] for step in times[REFERENCE][1:]]  # the first pair warms up
        merged = [step[kind] for step in times[MERGED][1:]]
        bridge = [step[kind] for step in times["bridge"][1:]]
        asked = sum(case.questions)
        rates[count] = Rates(
            asked / statistics.median(reference),
            asked / statistics.median(merged),
            asked / statistics.median(bridge),
            median_ratio(reference, bridge),
            median_ratio(merged, bridge),
        )
    return rates


def measure_memory(kind: type[Way], case: BridgeCase, layers: int, dtype: torch.dtype, threads: int) -> PeakMemory:
    """MB before a way's first step, and the growth of their peak in it."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        way = kind(frozen_model(model_config(layers), dtype), case.questions, Path(folder))
        with PeakMemory() as memory:
            way.step()
    return memory


def measure_whole(case: BridgeCase, dtype: torch.dtype, threads: int) -> tuple[PeakMemory, float]:
    """The bridge with every layer: the memory of its first step, and the seconds of the second."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        way = Bridge(frozen_model(model_config(BRIDGE_LAYERS), dtype), case.questions, Path(folder))
        with PeakMemory() as memory:
            way.step()
        return memory, seconds(way.step)


def measure_error(threads: int) -> tuple[float, float]:
    """`differences` of two layers of the real sizes, on CPU threads."""
    torch.set_num_threads(threads)
    return differences(model_config(2), (2, 1))


def differences(
    config: LlavaConfig, questions: tuple[int, ...], device: str | torch.device = "cpu"
) -> tuple[float, float]:
    """Relative difference between the two ways' losses, and between their gradients (L2 norm), in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = (OneQuestionASequence, Bridge)
        ways = [kind(frozen_model(config, torch.float32, device), questions, Path(folder)) for kind in kinds]
        losses = [way.backward() for way in ways]
    reference, bridge = (way.gradient() for way in ways)
    return abs(losses[1] / losses[0] - 1), ((bridge - reference).norm() / reference.norm()).item()


def compare_errors(threads: int, goals: Goals) -> None:
    """Print how far apart the two ways' losses and gradients are on the same questions."""
    loss, gradient = alone(measure_error, threads)
    header("fp32, the same questions", "differ by")
    row("losses", goals.at_most(loss, ERROR))
    row("the connector's gradients", goals.at_most(gradient, ERROR))
    print()


def compare_speed(
    cases: list[BridgeCase], settings: BridgeBench, dtype: torch.dtype, threads: int, goals: Goals
) -> None:
    """Print the speed of the three ways, and the ratios of time and of operations to the bridge's."""
    names = (f"{REFERENCE}, q/s", f"{MERGED}, q/s", "bridge, q/s")
    header("case", "layers", *names, "bridge over the first", "by operations", "over the second", "by operations")
    for case in cases:
        rates = alone(measure_time, case, settings.layers, dtype, settings.pairs, threads)
        for layers, measured in rates.items():
            questions, config = case.questions, model_config(layers)
            ours = sum(bridge_flops(questions, config).values())
            row(
                case.name,
                layers,
                f"{measured.reference:.3f}",
                f"{measured.merged:.3f}",
                f"{measured.bridge:.3f}",
                goals.at_least(measured.ratio, case.needed),
                f"{sum(reference_flops(questions, config).values()) / ours:.2f}x",
                f"{measured.merged_ratio:.2f}x",
                f"{sum(merged_flops(questions, config).values()) / ours:.2f}x",
            )
    print()


def compare_memory(
    cases: list[BridgeCase], settings: BridgeBench, dtype: torch.dtype, threads: int, goals: Goals
) -> None:
    """Print the memory of a step of both ways."""
    header("case", f"{REFERENCE}, MB", "bridge, MB", "ratio")
    for case in cases:
        reference, bridge = (
            alone(measure_memory, kind, case, settings.layers, dtype, threads).growth
            for kind in (OneQuestionASequence, Bridge)
        )
        row(case.name, f"{reference:.0f}", f"{bridge:.0f}", goals.at_least(reference / bridge, MEMORY))


def whole(cases: list[BridgeCase], dtype: torch.dtype, threads: int) -> None:
    """Print the bridge alone with every layer, and what a pass over the data sets would take elsewhere."""
    header("case", "bridge q/s", "GFLOP/s", "loaded MB", "step MB")
    for case in cases:
        memory, duration = alone(measure_whole, case, dtype, threads)
        rate = sum(bridge_flops(case.questions, model_config(BRIDGE_LAYERS)).values()) / duration / 1e9
        asked = sum(case.questions)
        row(case.name, f"{asked / duration:.3f}", f"{rate:.0f}", f"{memory.before:.0f}", f"{memory.growth:.0f}")
    print("\nOne pass over all questions, 1e15 floating-point operations by part:\n")
    total, names = 0.0, list(pass_flops(cases[0]))
    header("data set", "questions", "images", *names, "sum")
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


def run(settings: BridgeBench) -> Goals:
    """Measure what the settings ask for, print the tables, and return the verdicts."""
    cases = [BRIDGE_CASES[name] for name in settings.cases]
    threads = settings.threads or torch.get_num_threads()
    usual = torch.bfloat16 if settings.full else default_dtype("cpu")
    dtype = DTYPES[settings.dtype] if settings.dtype else usual
    print(f"{threads} thread(s), {str(dtype)[6:]}, torch {torch.__version__}\n")
    goals = Goals()
    if settings.host:
        with tempfile.TemporaryDirectory() as folder:
            measure_host(Path(folder), goals)
    elif settings.full:
        whole(cases, dtype, threads)
    else:
        compare_errors(threads, goals)
        compare_speed(cases, settings, dtype, threads, goals)
        compare_memory(cases, settings, dtype, threads, goals)
    return goals
