"""The command `deepspeed pretrain/run.py`: parse, then train."""

import argparse
import os
from dataclasses import MISSING

from pretrain.config import FIELDS, OBJECTIVES, PRESETS, PretrainConfig, from_preset
from pretrain.trackers import TRACKERS, check_tracker
from vlm.errors import UserError, run_command

CHOICES = {
    "preset": list(PRESETS),
    "objective": list(OBJECTIVES),
    "resume": ["auto", "required", "never"],
    "schedule": ["cosine", "wsd"],
    "augmentation": ["crop-jitter", "squash", "dino"],
    "dtype": ["auto", "bf16", "fp32"],
    "zero": [0, 1, 2, 3],
    "tracker": list(TRACKERS),
}
HELP = {
    "data": "captions: a folder or glob of WebDataset tars, parquet or Arrow files, or a Hugging Face data set",
    "out": "the run's folder: config.json, metrics.jsonl, checkpoints/, encoder/; on storage that all nodes share",
    "preset": "tiny: the embedded world on a CPU; small: ViT-S on a GPU; base: the released ViT-B recipe",
    "objective": "levljepa; levljepa-plus: 2 global and 4 local crops an image; clip, siglip: the paper's baselines",
    "resume": "auto continues a run found in --out; required fails without one; never fails with anything of one",
    "steps": "optimizer steps; 0 writes the untrained encoder",
    "batch_size": "samples a step over all processes",
    "micro_batch_size": "samples over all processes whose activations are kept at a time (0: the whole batch)",
    "tokenizer": "gpt2, train:SIZE (a BPE learnt from the captions), or a tokenizer.json",
    "zero": "DeepSpeed ZeRO stage",
    "dtype": "auto: bf16 autocast on GPUs, fp32 on CPUs",
    "augmentation": "squash: none; crop-jitter: mild; dino: the crops of levljepa-plus",
    "projector_depth": "hidden layers of a predictor; clip and siglip have none",
    "warmup_steps": "steps of linear warm-up; the preset's is shortened to a tenth of --steps where it does not fit",
    "schedule": "cosine; wsd: stable until the last 15 %% of the steps, which warm-up must leave free",
    "bad_ratio": "share of the samples that may be unusable before the run stops",
    "directions": "random directions of SIGReg",
    "lambda_image": "weight of SIGReg on the images' embeddings",
    "lambda_text": "weight of SIGReg on the captions' embeddings",
    "lambda_multi": "weight of levljepa-plus's pull between an image's crops",
    "probe_every": "steps between two measurements of retrieval and effective rank, probe_* in metrics.jsonl (0: none)",
    "probe_data": "captions held out for --probe-every; the first 256 usable pairs are read",
    "workers": "loader processes of each rank",
    "tracker": "where metrics.jsonl is shown; auto: RUN/tensorboard if TensorBoard is installed",
}
EXAMPLES = """examples:
  deepspeed pretrain/run.py                                   the embedded world, on whatever is here
  deepspeed --num_gpus 8 pretrain/run.py --preset base --data '/data/cc12m/*.tar' --out runs/cc12m
  deepspeed pretrain/run.py --objective siglip --out runs/siglip    the same towers, data and steps, another loss
  deepspeed --hostfile hosts pretrain/run.py --preset base --zero 2    many machines; SLURM: scripts/slurm_pretrain.sh
  torchrun --nproc-per-node 2 pretrain/run.py --steps 200
  python pretrain/run.py --preset base --data '/data/cc12m/*.tar' --plan --world-size 8 --throughput 4000
  python pretrain/run.py --resume required                    go on with runs/pretrain
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pretrain/run.py",
        description="Pretrain a LeVLJEPA encoder on image-caption pairs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, field in FIELDS.items():
        kind = field.type if field.type in (int, float) else str
        default = field.default if field.default is not MISSING else None
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=kind,
            choices=CHOICES.get(name),
            default=argparse.SUPPRESS,
            help=f"{HELP.get(name, name.replace('_', ' '))} (base: {default})",
        )
    # Given by the deepspeed launcher; the rank comes from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    plan = parser.add_argument_group("the price of a run, instead of the run")
    plan.add_argument("--plan", action="store_true", help="print parameters, memory by ZeRO stage, epochs, hours, disk")
    plan.add_argument("--world-size", type=int, metavar="N", help="processes to plan for (default: those started)")
    plan.add_argument("--throughput", type=float, metavar="SAMPLES_PER_S", help="of all processes, for the hours")
    return parser


def parse(arguments: list[str] | None = None) -> PretrainConfig:
    """Command line -> configuration: the preset's settings, then the flags that were given."""
    return settings(make_parser().parse_args(arguments))


def settings(given: argparse.Namespace) -> PretrainConfig:
    changes = {name: value for name, value in vars(given).items() if name in FIELDS}
    return from_preset(changes.pop("preset", PretrainConfig.preset), **changes)


def print_plan(config: PretrainConfig, given: argparse.Namespace) -> None:
    """Once, on whatever processes the command was started."""
    from pretrain.plan import describe

    processes = given.world_size or int(os.environ.get("WORLD_SIZE", 1))
    if os.environ.get("RANK", "0") == "0":
        print(describe(config, processes, given.throughput))


def main() -> None:
    given = make_parser().parse_args()
    config = settings(given)
    if given.plan:
        return print_plan(config, given)
    if given.world_size or given.throughput:
        raise UserError("--world-size and --throughput are for --plan: the processes of a run are its launcher's")
    check_tracker(config.tracker)
    from pretrain.train import train  # after parsing: --help must not wait for torch and deepspeed

    train(config)


if __name__ == "__main__":
    run_command(main)
