"""Every probe of pretrain/probe.py on the embedded world, with one loaded encoder: half a minute on one core."""

import argparse
from pathlib import Path

import torch

from pretrain import probe
from pretrain.probes.tasks import measure, table_line
from vlm.encoders.levljepa import load_encoder
from vlm.errors import run_command
from vlm.files import write_json

EXAMPLES = """examples:
  python scripts/probe_world.py runs/pretrain/encoder runs/world
  python scripts/probe_world.py runs/pretrain/encoder runs/world --tasks zero-shot knn --json probes.json
"""
# Task -> where make_world.py puts what it is measured on.
PLACES = {
    "zero-shot": "classes",
    "linear": "classes",
    "attentive": "classes",
    "knn": "classes",
    "segmentation": "segmentation",
    "backgrounds": "backgrounds",
    "retrieval": "captions/testdev-*.tar",
    "objects": "gqa",
}
SETTINGS = ("ridge", "weight_decay", "classes", "names", "labels", "images", "train_images", "pool", "embed_dim")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("encoder", type=Path, help="RUN/encoder")
    parser.add_argument("world", type=Path, help="the folder that scripts/make_world.py made")
    parser.add_argument("--tasks", nargs="+", choices=list(PLACES), default=list(PLACES), help="(default: all)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def prefixed(task: str, numbers: dict) -> dict[str, float]:
    """The single numbers that say how good an encoder is, as `task: name`; neither sizes nor what the probe chose."""
    single = {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
    return {f"{task}: {name}": value for name, value in single.items() if name not in SETTINGS}


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    encoder = load_encoder(args.encoder).to("cuda" if torch.cuda.is_available() else "cpu")
    found = {}
    for task in args.tasks:
        flags = [str(args.encoder), "--task", task, "--data", str(args.world / PLACES[task])]
        numbers = measure(encoder, probe.parse(flags))
        print(table_line(task, numbers), flush=True)
        found |= prefixed(task, numbers)
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    run_command(main)
