"""Measures how long steps wait for their data, and how long the device waits between steps."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch


class Waits:
    """Iterates over batches and notes, for each, the seconds that its step waited for it.

    On a GPU an event is put on the stream where a step begins and where it ends: between the end of one and the begin
    of the next the device had nothing to do, unless the host was still ahead of it.
    """

    def __init__(self, batches: Iterable[dict], device: torch.device):
        self.batches, self.on_gpu = batches, device.type == "cuda"
        self._seconds: list[float] = []
        self._begins: list[Any] = []  # start events since the last reading, its own first
        self._ends: list[Any] = []  # end events of the finished steps

    def __iter__(self) -> Iterator[dict]:
        batches = iter(self.batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self._seconds.append(time.perf_counter() - asked)
            self._mark(self._begins)
            yield batch
            self._mark(self._ends)

    def _mark(self, events: list[Any]) -> None:
        if self.on_gpu:
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()

    def seconds(self) -> list[float]:
        """What each step since the last call has waited for its batch."""
        seconds, self._seconds = self._seconds, []
        return seconds

    def idle(self) -> float | None:
        """The share of the time since the last call in which the device had nothing to do between steps.

        It is called within a step that the device has reached: its loss has been read. No share is known without a GPU,
        and of the first step alone.
        """
        begins, ends = self._begins, self._ends
        self._begins, self._ends = begins[-1:], []
        if len(begins) < 2:
            return None
        gaps = [end.elapsed_time(begin) for end, begin in zip(ends, begins[1:], strict=True)]  # milliseconds
        return sum(gaps) / begins[0].elapsed_time(begins[-1])


class LoaderLimit:
    """Tells, once, if the loader keeps the steps waiting, and how many workers and cores would keep up."""

    SHARE = 0.2  # of the time spent waiting
    STEPS = 50  # that are judged together

    def __init__(self, workers: int, processes: int):
        """workers: of each process, 0 if it loads by itself. processes: on this machine."""
        self.workers, self.processes = workers, processes
        self._steps = -1  # the first reading has the start of the workers in it
        self._waited = self._elapsed = 0.0
        self._told = False

    def notice(self, steps: int, waited: float, elapsed: float) -> str | None:
        """The line to print after another `steps` of `elapsed` seconds, `waited` of them without data."""
        if self._steps < 0:
            self._steps = 0
            return None
        self._steps, self._waited, self._elapsed = self._steps + steps, self._waited + waited, self._elapsed + elapsed
        if self._told or self._steps < self.STEPS:
            return None
        share, busy = self._waited / self._elapsed, max(self._elapsed - self._waited, 1e-9)
        # Workers that are the limit load all the time; a process without workers loads while it waits.
        loading = self.workers * self._elapsed if self.workers else self._waited
        self._steps, self._waited, self._elapsed = 0, 0.0, 0.0
        if share < self.SHARE:
            return None
        self._told = True
        needed = max(1, math.ceil(loading / busy))
        cores = (needed + 1) * self.processes
        return (
            f"the loader is the limit: steps wait {share:.0%} of the time for data; --workers {needed} would keep up "
            f"(now {self.workers}), with {cores} cores for the {self.processes} process(es) of this machine"
        )
