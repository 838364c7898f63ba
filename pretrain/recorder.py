"""Writes a run's metrics: metrics.jsonl, the tracker, the progress line, and a warning of collapse."""

import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pretrain.config import PretrainConfig
from pretrain.data.batches import CaptionBatches
from pretrain.data.workers import local_processes
from pretrain.health import SETTLING_STEPS, Rows, collapse
from pretrain.waits import LoaderLimit, Waits
from vlm.distributed import all_items, all_sum, is_main, world_size
from vlm.files import append_jsonl
from vlm.run.folder import forget_from
from vlm.run.progress import progress
from vlm.run.stopping import Patience
from vlm.run.trackers import open_tracker


class _Step(NamedTuple):
    """What a step left to be recorded; fields as `Recorder.add` takes them."""

    step: int
    lr: float
    metrics: dict[str, torch.Tensor]
    probes: dict[str, float]
    ids: list[str]


class Recorder:
    """Takes every step's scalars; they stay on the device until they are read, every `log_every` steps."""

    def __init__(self, run: Path, config: PretrainConfig, start: int, before: dict[str, Any] | None = None):
        """start: the step that the run begins with; what metrics.jsonl holds of it and later ones is dropped.

        before: `state` of the run that is gone on with.
        """
        self.path, self.config = run / "metrics.jsonl", config
        self.pending: list[_Step] = []
        self.waits: Waits  # both by `timing`, before the first step
        self.loader: LoaderLimit
        self.clock = time.perf_counter()
        self.bar = progress(config.steps, "pretrain", "step", initial=start, show=is_main())
        self.patience = Patience("lower --lr or raise --lambda-*")
        self.rows = Rows(config.batch_size)
        self.peaks: dict[str, float] = {}  # the highest ranks so far, since the run has settled
        self.warning: str | None = None  # of the last reading of the ranks
        if before:
            self.patience.failures, self.peaks, self.warning = before["failures"], before["peaks"], before["warning"]
        if is_main():
            self.tracker = open_tracker(config.tracker, run, asdict(config), start)
        forget_from(self.path, start)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the steps that are written: skipped ones in a row, and how collapse is told."""
        return {"failures": self.patience.failures, "peaks": self.peaks, "warning": self.warning}

    def timing(self, batches: CaptionBatches, device: torch.device) -> Waits:
        """The same batches, whose waits are recorded from here on; collective."""
        self.waits = Waits(batches, device)
        self.loader = LoaderLimit(batches.workers, local_processes())
        return self.waits

    def reads(self, step: int) -> bool:
        """Whether the metrics are read after this step: what is costly is computed for these steps alone."""
        return (step + 1) % self.config.log_every == 0 or step + 1 == self.config.steps

    def add(
        self, step: int, lr: float, metrics: dict[str, torch.Tensor], probes: dict[str, float], ids: list[str]
    ) -> None:
        """Take a step's numbers: of this rank and on its device the metrics, float32[] each; of rank 0 the probes.

        ids: of this rank's samples, for the record of a step that is skipped.
        """
        self.pending.append(_Step(step, lr, metrics, probes, ids))
        if self.reads(step):
            self.flush()

    def flush(self) -> None:
        """Write the pending steps; collective."""
        if not self.pending:
            return
        (means, waited, idle), now = self._means(), time.perf_counter()
        rate = self.config.batch_size * len(self.pending) / (now - self.clock)
        speed = {"samples_per_s": round(rate, 1)} | ({} if idle is None else {"device_idle": round(idle, 4)})
        records = []
        for step, mean, wait in zip(self.pending, means, waited):
            record: dict[str, Any] = {"step": step.step, **mean}
            record |= self._verdict(record, step.ids)
            record |= {"lr": step.lr, **speed, "data_wait_s": round(wait, 6), **step.probes}
            for name, value in record.items():
                if isinstance(value, float) and not math.isfinite(value):
                    record[name] = None  # JSON has no NaN and no infinity
            records.append(record)
            if is_main():
                append_jsonl(self.path, record)
            self.patience.check(step.step)
        if is_main():
            self.tracker(records)
        notice = self.loader.notice(len(means), sum(waited), now - self.clock)
        if notice and is_main():
            self.bar.write(notice, sys.stderr)
        self.bar.set_postfix_str(f"loss {means[-1]['loss']:.4f}, {rate:.0f} samples/s", refresh=False)
        self.bar.update(len(self.pending))
        self.pending, self.clock = [], now

    def _means(self) -> tuple[list[dict[str, float]], list[float], float | None]:
        """The pending steps' metrics and the seconds that they waited for data, averaged over the ranks.

        One reduction and one transfer for all of them. Then the share of the time in which this rank's device idled.
        """
        metrics = torch.stack([value for step in self.pending for value in step.metrics.values()])
        waited = torch.tensor(self.waits.seconds(), device=metrics.device)
        values = (all_sum(torch.cat([metrics, waited])) / world_size()).tolist()  # step by step, then the waits
        means, start = [], 0
        for step in self.pending:
            end = start + len(step.metrics)
            means.append(dict(zip(step.metrics, values[start:end])))
            start = end
        return means, values[start:], self.waits.idle()

    def _verdict(self, record: dict[str, Any], ids: list[str]) -> dict[str, Any]:
        """Whether the step was skipped, for a gradient that is not finite, and with which samples of all ranks.

        Else its warning of collapse, if any. The ranks have read the same numbers: they gather the samples together.
        """
        skipped = not math.isfinite(record["gradient_norm"])
        self.patience.count(skipped)
        if not skipped:
            return {"skipped": 0, **self._collapse(record)}
        samples = all_items(ids)
        if is_main():
            words = f"loss {record['loss']}, nothing updated; its samples ({samples[0]}, ...) are in {self.path.name}"
            self.bar.write(f"step {record['step']}: {words}", sys.stderr)
        return {"skipped": 1, "samples": samples}

    def _collapse(self, record: dict[str, Any]) -> dict[str, str]:
        """The record's warning of collapse, if any; it is also printed when it begins."""
        ranks = {name: value for name, value in record.items() if name.startswith("rank_")}
        if not ranks:  # of this step only the loss was read
            return {}
        if record["step"] < max(SETTLING_STEPS, self.config.warmup_steps):
            return {}
        self.peaks = {name: max(value, self.peaks.get(name, 0.0)) for name, value in ranks.items()}
        attainable = self.rows.attainable(self.config.embed_dim, self.config.batch_size)
        before, self.warning = self.warning, collapse(record, self.peaks, attainable)
        if not self.warning:
            return {}
        if not before and is_main():
            self.bar.write(f"step {record['step']}: {self.warning}")
        return {"warning": self.warning}
