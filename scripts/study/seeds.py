"""The whole chain over several seeds: pretrained encoders against untrained ones. See scripts/seed_check.py."""

import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from study.lanes import SPLITS, run_logged, score_bridge, train_bridge
from vlm.errors import UserError
from vlm.files import write_json
from vlm.run.settings import setting

BENCHMARKS = ("gqa", "vqav2", "pope")
SECOND = ", second stage"
Scores = dict[str, float]  # {gqa, vqav2, pope, mean}, percentages


@dataclass(frozen=True)
class SeedsSettings:
    """Flags of scripts/seed_check.py."""

    world: str = setting("runs/world", help="made by scripts/make_world.py", metavar="DIR")
    out: str = setting("runs/seeds", help="seeds.json, seeds.md and the runs", metavar="DIR")
    seeds: tuple[int, ...] = setting((0, 1, 2), help="seeds; each trains and scores the whole chain")
    split: str = setting("testdev", help="val: to choose settings; testdev: to report", choices=tuple(SPLITS))
    limit_images: int = setting(200, help="images of each benchmark", least=1)
    encoder: str | None = setting(None, help="use this encoder for every seed instead of pretraining one for each")
    blind: bool = setting(False, help="also train and score the blind baseline")
    pretrain_flags: str = setting("", help="more flags for pretrain/run.py, in one string", metavar="FLAGS")
    bridge_flags: str = setting("", help="more flags for bridge/train.py, in one string", metavar="FLAGS")
    second_stage: str = setting(
        "", help='flags of one more bridge/train.py --init, as "--lora 8 --steps 400"', metavar="FLAGS"
    )
    lanes: int = setting(os.cpu_count() or 2, help="processes side by side, one thread each", least=1)


def pretrain(settings: SeedsSettings, seed: int) -> Path:
    """The encoder of one seed. The command itself goes on or refuses if the folder holds a run."""
    out = Path(settings.out) / f"pretrain-{seed}"
    captions = str(Path(settings.world) / "captions")
    flags = ("--data", captions, "--out", str(out), "--seed", str(seed), *settings.pretrain_flags.split())
    run_logged(out.with_suffix(".log"), "pretrain/run.py", *flags)
    return out / "encoder"


def bridge(settings: SeedsSettings, seed: int, kind: str, encoder: Future[Path] | None) -> dict[str, Scores]:
    """Train and score one connector, and its second stage if any; returns the scores of each row."""
    world, out = Path(settings.world), Path(settings.out) / f"{kind}-{seed}"
    folder = str(encoder.result()) if encoder else ""
    name = {"pretrained": folder, "random": f"random:{folder}", "blind": "blind"}[kind]
    scores = f"eval-{settings.split}-{settings.limit_images}"
    train_bridge(world, out, seed, "--llm", "smollm2", "--encoder", name, *settings.bridge_flags.split())
    rows = {kind: score_bridge(world, out, out / scores, settings.split, settings.limit_images)}
    if settings.second_stage:
        second = Path(settings.out) / f"{kind}-{seed}-second"
        train_bridge(world, second, seed, "--init", str(out / "vlm"), *settings.second_stage.split())
        rows[kind + SECOND] = score_bridge(world, second, second / scores, settings.split, settings.limit_images)
    return rows


def table(scores: Mapping[str, list[Scores]], seeds: Sequence[int]) -> str:
    """Markdown: every score of every seed, then the mean and deviation of the gain over each baseline."""
    names = (*BENCHMARKS, "mean")
    lines = ["| row | seed | GQA | VQAv2 | POPE | mean |", "|---|---|---|---|---|---|"]
    for kind, summaries in scores.items():
        for seed, summary in zip(seeds, summaries):
            lines.append(f"| {kind} | {seed} | " + " | ".join(f"{summary[name]:.1f}" for name in names) + " |")
    for kind in scores:
        if kind.startswith("pretrained"):
            continue
        cells = []
        rival = scores["pretrained" + (SECOND if kind.endswith(SECOND) else "")]
        for name in names:
            gains = [after[name] - before[name] for after, before in zip(rival, scores[kind])]
            spread = f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
            cells.append(f"{statistics.mean(gains):+.1f}{spread}")
        lines.append(f"| **gain over {kind}** | mean ± sd of {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def encoders_of(settings: SeedsSettings, lanes: ThreadPoolExecutor) -> dict[int, Future[Path]]:
    """Seed -> its encoder, given or still to be trained."""
    if settings.encoder:
        ready: Future[Path] = Future()
        ready.set_result(Path(settings.encoder).resolve())
        return dict.fromkeys(settings.seeds, ready)
    return {seed: lanes.submit(pretrain, settings, seed) for seed in settings.seeds}


def run(settings: SeedsSettings) -> None:
    """Train and score everything, and write and print the table.

    Raises: UserError if there is no world, or a command failed.
    """
    world, out = Path(settings.world).resolve(), Path(settings.out).resolve()
    settings = replace(settings, world=str(world), out=str(out))
    if not (world / "world.json").exists():
        raise UserError(f"{world} is no world: python scripts/make_world.py {world}")
    kinds = ["pretrained", "random", *(["blind"] if settings.blind else [])]
    jobs: dict[str, list[Future[dict[str, Scores]]]] = {}
    with ThreadPoolExecutor(settings.lanes) as lanes:
        encoders = encoders_of(settings, lanes)  # queued first, so that no lane waits for one that has no lane
        for kind in kinds:
            jobs[kind] = []
            for seed in settings.seeds:
                encoder = None if kind == "blind" else encoders[seed]
                jobs[kind].append(lanes.submit(bridge, settings, seed, kind, encoder))
    scores: dict[str, list[Scores]] = {}  # row of the table -> the scores of each seed
    for of_seeds in jobs.values():
        for job in of_seeds:
            for name, summary in job.result().items():
                scores.setdefault(name, []).append(summary)
    text = table(scores, settings.seeds)
    kept = {name: str(value) for name, value in asdict(settings).items()}
    write_json(out / "seeds.json", {"settings": kept, "scores": scores})
    (out / "seeds.md").write_text(text + "\n")
    print(text)
