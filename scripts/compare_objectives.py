"""LeVLJEPA, LeVLJEPA+, CLIP and SigLIP on the embedded world: the same towers, data, batch, optimizer and schedule.

Each objective and seed trains an encoder, which every probe then measures on scenes it has not seen; a training that
was cut off goes on where it was. The columns differ in the loss, and LeVLJEPA+ moreover sees six augmented crops an
image. With --bridge a connector is trained on each encoder and on the same ViT untrained, and scored on held-out
scenes: the paper's table of gains over random weights, in one command.
"""

import argparse
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lanes import run, score_bridge, train_bridge

from pretrain.config import OBJECTIVES
from vlm.errors import UserError, run_command
from vlm.files import read_json, read_jsonl, write_json

EXAMPLES = """examples:
  python scripts/compare_objectives.py                                      two seeds of 300 steps, some minutes
  python scripts/compare_objectives.py --steps 2500 --seeds 0 1 2 --out runs/objectives-long
  python scripts/compare_objectives.py --objectives clip siglip --pretrain-flags "--lr 1e-3"
  python scripts/compare_objectives.py --objectives levljepa clip siglip --steps 5400 --out runs/paper \\
      --bridge "--steps 400 --batch-questions 8 --lr 5e-3"                  also the paper's table
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--world", type=Path, default=Path("runs/world"), help="made by scripts/make_world.py, here if it is not there")
    add("--out", type=Path, default=Path("runs/objectives"), help="objectives.json, objectives.md and the runs")
    add("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    add("--seeds", type=int, nargs="+", default=[0, 1], help="of the weights and of the data's order (default 0 1)")
    add("--steps", type=int, default=300, help="of each run (default 300)")
    add("--pretrain-flags", default="", help="more flags for pretrain/run.py, in one string; they hold for all rows")
    add(
        "--bridge",
        default="",
        metavar="FLAGS",
        help="also train and score bridges, with these flags of bridge/train.py",
    )
    add("--llm", default="smollm2", help="of the bridges (default smollm2)")
    add("--limit-images", type=int, default=200, help="images of each benchmark that score a bridge (default 200)")
    add("--lanes", type=int, default=max(1, (os.cpu_count() or 2)), help="processes side by side, one thread each")
    return parser.parse_args()


def measure(args: argparse.Namespace, objective: str, seed: int) -> dict[str, float]:
    """Train one encoder and probe it: every number that the probes report, and the training's samples a second."""
    out = args.out / f"{objective}-{seed}"
    run(out.with_suffix(".log"), "pretrain/run.py", "--data", str(args.world / "captions"), "--out", str(out),
        "--objective", objective, "--seed", str(seed), "--steps", str(args.steps), "--warmup-steps",
        str(max(1, args.steps // 5)), *args.pretrain_flags.split())  # fmt: skip
    file = out / "probes.json"
    run(file.with_suffix(".log"), "scripts/probe_world.py", str(out / "encoder"), str(args.world), "--json", str(file))
    numbers = read_json(file)
    records = list(read_jsonl(out / "metrics.jsonl"))
    numbers["training: samples_per_s"] = statistics.median(record["samples_per_s"] for record in records)
    numbers["training: collapse_warnings"] = sum("warning" in record for record in records)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    print(f"{objective}, seed {seed}: {shown}", flush=True)
    return numbers


def bridge(args: argparse.Namespace, objective: str, seed: int) -> Path:
    """Train a connector on one encoder ("random": on the same ViT untrained) and score it -> the run's folder."""
    trained = args.out / f"{args.objectives[0] if objective == 'random' else objective}-{seed}" / "encoder"
    out = args.out / "bridge" / f"{objective}-{seed}"
    name = f"random:{trained}" if objective == "random" else str(trained)
    train_bridge(args.world, out, seed, "--llm", args.llm, "--encoder", name, *args.bridge.split())
    score_bridge(args.world, out, out / "eval", "testdev", args.limit_images)
    return out


def paper_table(args: argparse.Namespace, lanes: ThreadPoolExecutor) -> str:
    """Bridges on all encoders, which must be there, and what each objective gains over random weights."""
    jobs = [lanes.submit(bridge, args, name, seed) for name in ("random", *args.objectives) for seed in args.seeds]
    folders = [str(job.result()) for job in jobs]
    run(args.out / "paper_table.log", "scripts/paper_table.py", *folders, "--out", str(args.out))
    return (args.out / "paper_table.md").read_text()


def summary(seeds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean over the seeds and standard deviation (n - 1; 0 for one seed) of every number."""
    columns = {name: [numbers[name] for numbers in seeds] for name in seeds[0]}
    return {
        name: {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
        for name, values in columns.items()
    }


def table(summaries: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a number, a column an objective, each mean ± standard deviation over the seeds."""

    def cell(mean: float, sd: float) -> str:
        digits = 0 if not sd and mean == int(mean) else 3 if abs(mean) < 10 else 1
        return f"{mean:.{digits}f} ± {sd:.{digits}f}" if sd else f"{mean:.{digits}f}"

    lines = ["| | " + " | ".join(summaries) + " |", "|---" * (1 + len(summaries)) + "|"]
    for name in next(iter(summaries.values())):
        lines.append(f"| {name} | " + " | ".join(cell(**columns[name]) for columns in summaries.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    args = parse()
    if args.steps < 2 or args.lanes < 1 or args.limit_images < 1:
        raise UserError("give --steps of 2 or more, and --lanes and --limit-images of 1 or more")
    args.world, args.out = args.world.resolve(), args.out.resolve()
    if not (args.world / "world.json").exists():
        print(f"drawing {args.world}", flush=True)
        sizes = ("--scenes", "16000", "--qa-scenes", "2500")  # the quickstart's
        run(args.out / "world.log", "scripts/make_world.py", str(args.world), *sizes)
    with ThreadPoolExecutor(args.lanes) as lanes:
        jobs = {name: [lanes.submit(measure, args, name, seed) for seed in args.seeds] for name in args.objectives}
        numbers = {name: [job.result() for job in row] for name, row in jobs.items()}
        gains = paper_table(args, lanes) if args.bridge else ""
    summaries = {name: summary(seeds) for name, seeds in numbers.items()}
    title = (
        f"{args.steps} steps each on {args.world.name}, seeds {', '.join(map(str, args.seeds))}: "
        f"mean ± standard deviation\n\n"
    )
    text = title + table(summaries)
    settings = {"steps": args.steps, "seeds": args.seeds, "pretrain_flags": args.pretrain_flags}
    write_json(args.out / "objectives.json", {**settings, "summary": summaries, "numbers": numbers})
    (args.out / "objectives.md").write_text(text + "\n")
    print("\n" + text + ("\n\n" + gains if gains else ""))


if __name__ == "__main__":
    run_command(main)
