"""What ZeRO saves, against the plan and DeepSpeed's own estimate. See scripts/bench_zero.py."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.harness import Goals, header, row
from bench.settings import ZeroBench
from bench.zero_worker import BUCKET, RANKS, configuration
from pretrain.price import checkpoint_bytes, model_states, parameters
from vlm.errors import UserError
from vlm.files import read_json

KINDS = ("weights", "master copy", "gradients", "moments", "bucket")
LOSSES, PLAN = 1e-4, 0.02  # allowed differences, relative
SCRIPTS = Path(__file__).resolve().parents[1]


def launch(stage: int, width: int, steps: int, out: Path) -> list[dict]:
    """Train at one stage on two processes and return what each rank left.

    Raises: UserError if one failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command += ["--module", "bench.zero_worker", "--stage", str(stage), "--width", str(width)]
    command += ["--steps", str(steps), "--out", str(out)]
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"stage {stage} failed: {' '.join(done.stderr.split()[-60:])}")
    return [read_json(out / f"{stage}.{rank}.json") for rank in range(RANKS)]


def estimate(stage: int, count: int, largest: int) -> str:
    """DeepSpeed's own estimate in MB; it knows stages 2 and 3, and takes weights and gradients to be 16 bits wide."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    if stage == 2:
        return mega(estimate_zero2_model_states_mem_needs(count, RANKS, 1, cpu_offload=False)[1])
    if stage == 3:
        no_offload = {"cpu_offload": False, "cpu_offload_params": False}
        return mega(estimate_zero3_model_states_mem_needs(count, largest, RANKS, 1, **no_offload)[1])
    return "-"


def mega(size: float) -> str:
    """Bytes as MB."""
    return f"{size / 1e6:.1f}"


@dataclass(frozen=True)
class Measured:
    """Bytes beside the plan's."""

    bytes: float
    planned: float

    def __str__(self) -> str:
        return f"{mega(self.bytes)} / {mega(self.planned)}"

    @property
    def off(self) -> float:
        """By how much the measured bytes miss the plan, relative."""
        return abs(self.bytes / self.planned - 1)


def compare_stage(stage: int, ranks: list[dict], count: int) -> dict[str, Measured]:
    """What the rank that holds most holds, by kind, in total and on disk. count: the model's parameters."""
    held = max((rank["held"] for rank in ranks), key=lambda held: sum(held.values()))
    planned = model_states(count, stage, RANKS)
    planned["bucket"] = 4 * int(BUCKET * count) if stage else 0
    measured = {kind: Measured(held[kind], planned[kind]) for kind in KINDS}
    measured["total"] = Measured(sum(held[kind] for kind in KINDS), sum(planned[kind] for kind in KINDS))
    measured["checkpoint"] = Measured(ranks[0]["checkpoint"], checkpoint_bytes(count))
    return measured


def mean_losses(ranks: list[dict]) -> list[float]:
    """The losses of each step, averaged over the ranks."""
    by_rank = [rank["losses"] for rank in ranks]
    return [sum(losses) / RANKS for losses in zip(*by_rank)]


def run(settings: ZeroBench) -> Goals:
    """Train at every stage, print a row for each, and return the verdicts.

    Raises: UserError if the width is no multiple of 4, or a stage failed.
    """
    if settings.width % 4:
        raise UserError(f"--width {settings.width}: give a multiple of 4")
    count = sum(parameters(configuration(settings.width, 0)).values())
    print(
        f"{count:,} parameters, {RANKS} processes, {settings.steps} steps; MB of the rank that holds most, "
        "measured / planned\n"
    )
    header("ZeRO", *KINDS, "total", "DeepSpeed's estimate", "peak RSS grew by", "checkpoint", "loss differs by")
    losses: dict[int, list[float]] = {}
    farthest, farthest_loss = 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for stage in settings.stages:
            ranks = launch(stage, settings.width, settings.steps, Path(folder))
            measured = compare_stage(stage, ranks, count)
            losses[stage] = mean_losses(ranks)
            first = losses[settings.stages[0]]
            difference = max(abs(a - b) / abs(b) for a, b in zip(losses[stage], first))
            farthest = max(farthest, measured["total"].off, measured["checkpoint"].off)
            farthest_loss = max(farthest_loss, difference)
            row(
                stage,
                *(measured[kind] for kind in (*KINDS, "total")),
                estimate(stage, count, ranks[0]["largest"]),
                f"{max(rank['grown'] for rank in ranks):.1f}",
                measured["checkpoint"],
                f"{difference:.1e}",
            )
    goals = Goals()
    print(f"\ntotals and checkpoints differ from the plan by {goals.at_most(farthest, PLAN)}")
    print(f"losses differ from the first row's by {goals.at_most(farthest_loss, LOSSES)}")
    return goals
