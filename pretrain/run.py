"""The command `deepspeed pretrain/run.py`: parse, then train."""

import argparse
import os
from pathlib import Path
from typing import Any

from pretrain.config import PretrainConfig, from_preset
from vlm.errors import UserError, run_command, told_once
from vlm.run.settings import given, make_parser
from vlm.run.steps import check_resume, committed_steps
from vlm.run.trackers import check_tracker

ABOUT = """Pretrain a LeVLJEPA encoder on image-caption pairs.

Without --preset a run is tiny's: the embedded world on CPU cores, 5,000 steps.
Defaults in brackets are --preset base's; tiny, small and cc12m have other sizes and budgets."""
EXAMPLES = """examples:
  deepspeed pretrain/run.py                                   the embedded world, on whatever is here
  deepspeed --num_gpus 8 pretrain/run.py --preset cc12m --data '/data/cc12m/*.tar' --out runs/cc12m
  deepspeed pretrain/run.py --data '/data/cc12m=0.7,s3://bucket/recap/{00000..01023}.tar=0.3'    mixed 7 : 3
  deepspeed pretrain/run.py --objective siglip --out runs/siglip    the same towers, data and steps, another loss
  deepspeed --hostfile hosts pretrain/run.py --preset base --data /data/datacomp --zero 2    many machines
  sbatch scripts/slurm_pretrain.sh --preset base --data /data/datacomp --zero 2              the same under SLURM
  torchrun --nproc-per-node 2 pretrain/run.py --steps 200
  python pretrain/run.py --preset base --data '/data/cc12m/*.tar' --plan --world-size 8 --throughput 4000
  python pretrain/run.py --resume required                    go on with runs/pretrain
  python pretrain/run.py --branch runs/wsd --branch-step 40000 --schedule wsd --steps 47100 --out runs/decay
  python pretrain/run.py --init timm:vit_base_patch16_224.dino --preset base --data /data/cc12m --out runs/from-dino
"""


def parser() -> argparse.ArgumentParser:
    made = make_parser(PretrainConfig, prog="pretrain/run.py", about=ABOUT, examples=EXAMPLES)
    # Given by the deepspeed launcher; the rank comes from the environment.
    made.add_argument("--local_rank", "--local-rank", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add = made.add_argument_group("the price of a run, instead of the run").add_argument
    add("--plan", action="store_true", help="print parameters, memory by ZeRO stage, epochs, hours, disk")
    add("--world-size", type=int, metavar="N", help="processes of that run [those started]")
    add("--throughput", type=float, metavar="SAMPLES_PER_S", help="of all processes, for the hours")
    return made


def parse(arguments: list[str] | None = None) -> PretrainConfig:
    """Command line -> configuration: the preset's settings, then the flags that were given."""
    return _config(given(parser(), arguments))


def _config(flags: dict[str, Any]) -> PretrainConfig:
    """The flags that are settings; the others ask for the price of a run, or come from the launcher."""
    settings = {name: value for name, value in flags.items() if hasattr(PretrainConfig, name)}
    return from_preset(settings.pop("preset", PretrainConfig.preset), **settings)


def main() -> None:
    flags = given(parser())
    config = _config(flags)
    if flags["plan"]:
        from pretrain.price import describe

        if os.environ.get("RANK", "0") == "0":  # once, on whatever processes the command was started
            started = int(os.environ.get("WORLD_SIZE", 1))
            processes = started if flags["world_size"] is None else flags["world_size"]
            print(describe(config, processes, flags["throughput"]))
        return
    if flags["world_size"] is not None or flags["throughput"] is not None:
        raise UserError("--world-size and --throughput are for --plan: the processes of a run are its launcher's")
    told_once(lambda: check_tracker(config.tracker))
    if not config.branch:  # else the run may begin with the other's checkpoint
        out = Path(config.out)
        steps = committed_steps(out / "checkpoints")
        told_once(lambda: check_resume(out, config.resume, max(steps, default=None)))
    from pretrain.train import train  # after parsing: --help must not wait for torch and deepspeed

    train(config)


if __name__ == "__main__":
    run_command(main)
