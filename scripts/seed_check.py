"""Is the gain of a pretrained encoder more than luck? The whole chain over several seeds, all of them reported.

Each seed trains an encoder, then one connector on it and one on the same ViT with random weights (and, with --blind,
one on an encoder that sees nothing), and scores them on held-out scenes. With --second-stage each goes on from there,
with LoRA for instance, and is scored again. Called again, finished parts are not made again.
"""

import argparse
import os
import statistics
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lanes import SPLITS, run, score_bridge, train_bridge

from vlm.errors import UserError, run_command
from vlm.files import write_json

EXAMPLES = """examples:
  python scripts/seed_check.py --world runs/world --out runs/seeds
  python scripts/seed_check.py --world runs/world --out runs/choice --seeds 7 8 --split val      (to choose settings)
  python scripts/seed_check.py --world runs/world --seeds 0 --second-stage "--lora 8 --steps 400 --lr 2e-3"
"""
BENCHMARKS = ("gqa", "vqav2", "pope")
SECOND = ", second stage"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--world", type=Path, default=Path("runs/world"), help="made by scripts/make_world.py (default runs/world)")
    add("--out", type=Path, default=Path("runs/seeds"))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--split", choices=list(SPLITS), default="testdev", help="val: to choose settings; testdev: to report")
    add("--limit-images", type=int, default=200, help="images of each benchmark (default 200)")
    add("--encoder", type=Path, help="use this encoder for every seed instead of pretraining one for each")
    add("--blind", action="store_true", help="also train and score the blind baseline")
    add("--pretrain-flags", default="", help="more flags for pretrain/run.py, in one string")
    add("--bridge-flags", default="", help="more flags for bridge/train.py, in one string")
    add("--second-stage", default="", metavar="FLAGS", help='flags of one more bridge/train.py --init, as "--lora 8"')
    add("--lanes", type=int, default=max(1, (os.cpu_count() or 2)), help="processes side by side, one thread each")
    return parser.parse_args()


def pretrain(args: argparse.Namespace, seed: int) -> Path:
    """The encoder of one seed. The command itself goes on or refuses where the folder holds a run."""
    out = args.out / f"pretrain-{seed}"
    run(out.with_suffix(".log"), "pretrain/run.py", "--data", str(args.world / "captions"), "--out", str(out),
        "--seed", str(seed), *args.pretrain_flags.split())  # fmt: skip
    return out / "encoder"


def bridge(args: argparse.Namespace, seed: int, kind: str, encoder: Future | None) -> dict[str, dict]:
    """Train and score one connector, and its second stage if any: {row: {gqa, vqav2, pope, mean}}."""
    folder = str(encoder.result()) if encoder else ""
    name = {"pretrained": folder, "random": f"random:{folder}", "blind": "blind"}[kind]
    out = args.out / f"{kind}-{seed}"
    scores = f"eval-{args.split}-{args.limit_images}"
    train_bridge(args.world, out, seed, "--llm", "smollm2", "--encoder", name, *args.bridge_flags.split())
    rows = {kind: score_bridge(args.world, out, out / scores, args.split, args.limit_images)}
    if args.second_stage:
        second = args.out / f"{kind}-{seed}-second"
        train_bridge(args.world, second, seed, "--init", str(out / "vlm"), *args.second_stage.split())
        rows[kind + SECOND] = score_bridge(args.world, second, second / scores, args.split, args.limit_images)
    return rows


def table(scores: dict[str, list[dict]], seeds: list[int]) -> str:
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


def main() -> None:
    args = parse()
    args.world, args.out = args.world.resolve(), args.out.resolve()
    if args.lanes < 1 or args.limit_images < 1:
        raise UserError(f"--lanes {args.lanes} and --limit-images {args.limit_images}: give at least 1 of each")
    if not (args.world / "world.json").exists():
        raise UserError(f"{args.world} is no world: python scripts/make_world.py {args.world}")
    kinds = ["pretrained", "random", *(["blind"] if args.blind else [])]
    with ThreadPoolExecutor(args.lanes) as lanes:
        if args.encoder:
            ready: Future = Future()
            ready.set_result(args.encoder.resolve())
            encoders = dict.fromkeys(args.seeds, ready)
        else:  # queued first, so that no lane waits for an encoder that has no lane
            encoders = {seed: lanes.submit(pretrain, args, seed) for seed in args.seeds}
        jobs = {
            kind: [lanes.submit(bridge, args, seed, kind, encoders[seed] if kind != "blind" else None)
                   for seed in args.seeds]
            for kind in kinds
        }  # fmt: skip
    rows = {kind: [job.result() for job in row] for kind, row in jobs.items()}
    scores = {name: [summaries[name] for summaries in row] for row in rows.values() for name in row[0]}
    text = table(scores, args.seeds)
    write_json(
        args.out / "seeds.json",
        {"settings": {name: str(value) for name, value in vars(args).items()}, "scores": scores},
    )
    (args.out / "seeds.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    run_command(main)
