"""What every part of the check uses: rows that are kept at once, timing, memory, commands."""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench.harness import row, verdict
from torch.profiler import ProfilerActivity, profile

from gpu.settings import GpuCheck
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.llms.precision import chosen_device

ROOT = Path(__file__).resolve().parents[2]
TOP_KERNELS = 12


class Check:
    """One check of one device. results: part -> row's name -> its values, those of earlier checks among them.

    Raises: UserError if there is no such device.
    """

    def __init__(self, settings: GpuCheck):
        self.device, self.smoke, self.patience = chosen_device(settings.device), settings.smoke, settings.patience
        self.file = Path(settings.out) / "gpu_check.json"
        self.results: dict[str, dict[str, dict[str, Any]]] = {}
        self.begun: list[str] = []  # the parts of this check

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU"

    def go_on(self, **machine: Any) -> None:
        """Note the machine, and keep the rows that the file has of it.

        Raises: UserError if they are of another machine, another torch, or of other sizes.
        """
        if self.file.exists():
            self.results = read_json(self.file)
            earlier = self.results.get("machine") if isinstance(self.results, dict) else None
            if earlier != {self.name: machine}:
                raise UserError(
                    f"{self.file} is of {earlier}, this is {{{self.name!r}: {machine}}}: give another --out"
                )
        self.note("machine", self.name, **machine)

    def begin(self, part: str) -> None:
        """Forget the part's rows of earlier checks: it is measured now."""
        self.results.pop(part, None)
        self.begun.append(part)

    def leave_out(self, part: str, reason: str) -> None:
        """Say that there is no time for a part; its rows of an earlier check stay."""
        if self.results.get(part, {"left out": None}).keys() == {"left out"}:
            self.note(part, "left out", reason=reason)
        else:
            row(part, "left out, its earlier rows stay", reason, "")

    def note(self, part: str, name: str, passed: bool | None = None, **values: Any) -> None:
        """Print a row and keep it in the file, so that a check that is stopped loses nothing."""
        judged = {} if passed is None else {"passed": bool(passed)}
        self.results.setdefault(part, {})[name] = {**values, **judged}
        write_json(self.file, self.results)
        shown = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
        ]
        row(part, name, ", ".join(shown), "" if passed is None else verdict(passed))

    def failed(self) -> list[str]:
        """The rows of this check that did not pass."""
        named = [(part, name, values) for part in self.begun for name, values in self.results.get(part, {}).items()]
        return [f"{part}: {name}" for part, name, values in named if values.get("passed") is False]

    def sync(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give back what the last measurement held."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()

    def seconds(self, function: Callable[[], Any], repeats: int) -> float:
        """Median wall seconds of one call, the device's work included, after two calls that warm up."""
        for _ in range(2):
            function()
        times = []
        for _ in range(repeats):
            self.sync()
            start = time.perf_counter()
            function()
            self.sync()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def pipelined(self, function: Callable[[], Any], repeats: int, warm: int = 2) -> float:
        """Mean wall seconds of calls in a row, as a training loop makes them: nothing waits between two."""
        for _ in range(warm):
            function()
        self.sync()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        self.sync()
        return (time.perf_counter() - start) / repeats

    def peak_gib(self, function: Callable[[], Any]) -> float:
        """Peak device memory of a call, GiB; 0 on a CPU."""
        if not self.on_gpu:
            function()
            return 0.0
        self.free()
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        self.sync()
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def idle(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Share of a call's wall time in which the GPU has nothing to do, its kernels, and the costliest ones."""
        if not self.on_gpu:
            function()
            return {}
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            self.sync()
            start = time.perf_counter()
            function()
            self.sync()
            wall = time.perf_counter() - start
        kernels = [event for event in trace.key_averages() if event.self_device_time_total > 0]  # microseconds
        kernels.sort(key=lambda event: -event.self_device_time_total)
        spent = sum(event.self_device_time_total for event in kernels) / 1e6
        top = [f"{event.key[:60]} x{event.count} {event.self_device_time_total / 1e3:.1f} ms" for event in kernels]
        return {"idle": 1 - spent / wall, "kernels": sum(event.count for event in kernels), "top": top[:TOP_KERNELS]}

    def start(self, *command: object) -> subprocess.Popen:
        """Start a command of this repository on this device."""
        fixed = {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "2"}
        hidden = {} if self.on_gpu else {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        return subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env={**os.environ, **fixed, **hidden}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finish(self, *processes: subprocess.Popen) -> None:
        """Wait for commands. Raises: RuntimeError with the end of what one printed if it fails."""
        try:
            for process in processes:
                said, _ = process.communicate(timeout=self.patience)
                if process.returncode:
                    raise RuntimeError(f"exit code {process.returncode}: {said[-1500:]}")
        finally:
            for process in processes:
                process.kill()


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """|value - reference| / |reference|, in float64 on the CPU."""
    value, reference = value.detach().double().cpu(), reference.detach().double().cpu()
    return ((value - reference).norm() / reference.norm()).item()


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
