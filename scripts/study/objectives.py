"""Objectives side by side: the same towers, data and schedule, several seeds. See scripts/compare_objectives.py."""

import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pretrain.config import OBJECTIVES
from study.lanes import run_logged, score_bridge, train_bridge
from vlm.files import read_json, read_jsonl, write_json
from vlm.run.settings import setting

Numbers = dict[str, float]


@dataclass(frozen=True)
class ObjectivesSettings:
    """Flags of scripts/compare_objectives.py."""

    world: str = setting("runs/world", help="made by scripts/make_world.py, and here if it is not there", metavar="DIR")
    out: str = setting("runs/objectives", help="objectives.json, objectives.md and the runs", metavar="DIR")
    objectives: tuple[str, ...] = setting(tuple(OBJECTIVES), help="what to compare", choices=tuple(OBJECTIVES))
    seeds: tuple[int, ...] = setting((0, 1), help="seeds of the weights and of the data's order")
    steps: int = setting(300, help="steps of each pretraining run", least=2)
    pretrain_flags: str = setting("", help="more flags of pretrain/run.py for all rows, in one string", metavar="FLAGS")
    bridge: str = setting("", help="also train and score bridges, with these flags of bridge/train.py", metavar="FLAGS")
    llm: str = setting("smollm2", help="the LLM of the bridges")
    limit_images: int = setting(200, help="images of each benchmark that score a bridge", least=1)
    lanes: int = setting(os.cpu_count() or 2, help="processes side by side, one thread each", least=1)


def measure(settings: ObjectivesSettings, objective: str, seed: int) -> Numbers:
    """Train one encoder and probe it: every number that the probes report, and the training's samples a second."""
    out, world = Path(settings.out) / f"{objective}-{seed}", Path(settings.world)
    run_logged(
        out.with_suffix(".log"),
        "pretrain/run.py",
        *("--data", str(world / "captions"), "--out", str(out), "--objective", objective, "--seed", str(seed)),
        *("--steps", str(settings.steps), "--warmup-steps", str(max(1, settings.steps // 5))),
        *settings.pretrain_flags.split(),
    )
    file = out / "probes.json"
    run_logged(
        file.with_suffix(".log"), "scripts/probe_world.py", str(out / "encoder"), str(world), "--json", str(file)
    )
    numbers = read_json(file)
    records = list(read_jsonl(out / "metrics.jsonl"))
    numbers["training: samples_per_s"] = statistics.median(record["samples_per_s"] for record in records)
    numbers["training: collapse_warnings"] = sum("warning" in record for record in records)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    print(f"{objective}, seed {seed}: {shown}", flush=True)
    return numbers


def bridge(settings: ObjectivesSettings, objective: str, seed: int) -> Path:
    """Train a connector on one encoder ("random": on the same ViT untrained) and score it; returns the run's folder."""
    out, world = Path(settings.out) / "bridge" / f"{objective}-{seed}", Path(settings.world)
    trained = settings.objectives[0] if objective == "random" else objective
    encoder = str(Path(settings.out) / f"{trained}-{seed}" / "encoder")
    name = f"random:{encoder}" if objective == "random" else encoder
    train_bridge(world, out, seed, "--llm", settings.llm, "--encoder", name, *settings.bridge.split())
    score_bridge(world, out, out / "eval", "testdev", settings.limit_images)
    return out


def paper_table(settings: ObjectivesSettings, lanes: ThreadPoolExecutor) -> str:
    """Train bridges on all encoders, which must be there; returns what each objective gains over random weights."""
    jobs = []
    for name in ("random", *settings.objectives):
        jobs += [lanes.submit(bridge, settings, name, seed) for seed in settings.seeds]
    folders = [str(job.result()) for job in jobs]
    out = Path(settings.out)
    run_logged(out / "paper_table.log", "scripts/paper_table.py", *folders, "--out", str(out))
    return (out / "paper_table.md").read_text()


def summary(seeds: list[Numbers]) -> dict[str, dict[str, float]]:
    """Mean over the seeds and standard deviation (n - 1; 0 for one seed) of every number."""
    found = {}
    for name in seeds[0]:
        values = [numbers[name] for numbers in seeds]
        found[name] = {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
    return found


def table(summaries: Mapping[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a number, a column an objective, each mean ± standard deviation over the seeds."""
    lines = ["| | " + " | ".join(summaries) + " |", "|---" * (1 + len(summaries)) + "|"]
    for name in next(iter(summaries.values())):
        cells = [_cell(**columns[name]) for columns in summaries.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(mean: float, sd: float) -> str:
    """Counts without decimals, numbers below 10 with three, others with one."""
    whole = not sd and mean == int(mean)
    digits = 0 if whole else 3 if abs(mean) < 10 else 1
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if sd else f"{mean:.{digits}f}"


def run(settings: ObjectivesSettings) -> None:
    """Train and measure every objective with every seed, and write and print the table."""
    world, out = Path(settings.world).resolve(), Path(settings.out).resolve()
    settings = replace(settings, world=str(world), out=str(out))
    if not (world / "world.json").exists():
        print(f"drawing {world}", flush=True)
        run_logged(out / "world.log", "scripts/make_world.py", str(world))
    with ThreadPoolExecutor(settings.lanes) as lanes:
        jobs = {
            name: [lanes.submit(measure, settings, name, seed) for seed in settings.seeds]
            for name in settings.objectives
        }
        numbers = {name: [job.result() for job in row] for name, row in jobs.items()}
        gains = paper_table(settings, lanes) if settings.bridge else ""
    summaries = {name: summary(seeds) for name, seeds in numbers.items()}
    seeds = ", ".join(map(str, settings.seeds))
    title = f"{settings.steps} steps each on {world.name}, seeds {seeds}: mean ± standard deviation"
    text = f"{title}\n\n{table(summaries)}"
    kept = {"steps": settings.steps, "seeds": settings.seeds, "pretrain_flags": settings.pretrain_flags}
    write_json(out / "objectives.json", {**kept, "summary": summaries, "numbers": numbers})
    (out / "objectives.md").write_text(text + "\n")
    print("\n" + text + ("\n\n" + gains if gains else ""))
