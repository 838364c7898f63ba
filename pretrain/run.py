"""The command `deepspeed pretrain/run.py`: parse, then train."""

import argparse
from dataclasses import MISSING

from pretrain.config import FIELDS, OBJECTIVES, PRESETS, PretrainConfig, from_preset
from vlm.errors import run_command

CHOICES = {
    "preset": list(PRESETS),
    "objective": list(OBJECTIVES),
    "resume": ["auto", "required", "never"],
    "schedule": ["cosine", "wsd"],
    "augmentation": ["crop-jitter", "squash", "dino"],
    "dtype": ["auto", "bf16", "fp32"],
    "zero": [0, 1, 2, 3],
}
HELP = {
    "data": "captions: a folder or glob of WebDataset tars, parquet or Arrow files, or a Hugging Face data set",
    "out": "the run's folder: config.json, metrics.jsonl, checkpoints/, encoder/",
    "preset": "tiny: the embedded world on a CPU; small: ViT-S on a GPU; base: the released ViT-B recipe",
    "objective": "levljepa; levljepa-plus: 2 global and 4 local crops an image; clip, siglip: the paper's baselines",
    "resume": "auto continues a run found in --out; required fails without one; never fails with one",
    "batch_size": "samples a step over all processes",
    "micro_batch_size": "samples over all processes whose activations are kept at a time (0: the whole batch)",
    "tokenizer": "gpt2, train:SIZE (a BPE learnt from the captions), or a tokenizer.json",
    "zero": "DeepSpeed ZeRO stage",
    "dtype": "auto: bf16 autocast on GPUs, fp32 on CPUs",
    "augmentation": "squash: none; crop-jitter: mild; dino: the crops of levljepa-plus",
    "projector_depth": "hidden layers of a predictor; clip and siglip have none",
    "directions": "random directions of SIGReg",
    "lambda_image": "weight of SIGReg on the images' embeddings",
    "lambda_text": "weight of SIGReg on the captions' embeddings",
    "lambda_multi": "weight of levljepa-plus's pull between an image's crops",
    "probe_every": "steps between two measurements of retrieval and effective rank, probe_* in metrics.jsonl (0: none)",
    "probe_data": "captions held out for --probe-every; the first 256 pairs are read",
    "workers": "loader processes of each rank",
}
EXAMPLES = """examples:
  deepspeed pretrain/run.py                                   the embedded world, on whatever is here
  deepspeed --num_gpus 8 pretrain/run.py --preset base --data '/data/cc12m/*.tar' --out runs/cc12m
  deepspeed pretrain/run.py --objective siglip --out runs/siglip    the same towers, data and steps, another loss
  torchrun --nproc-per-node 2 pretrain/run.py --steps 200
  python pretrain/run.py --resume required                    go on with runs/pretrain
"""


def parse(arguments: list[str] | None = None) -> PretrainConfig:
    """Command line -> configuration: the preset's settings, then the flags that were given."""
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
    given = vars(parser.parse_args(arguments))
    given.pop("local_rank", None)
    return from_preset(given.pop("preset", PretrainConfig.preset), **given)


def main() -> None:
    config = parse()
    from pretrain.train import train  # after parsing: --help must not wait for torch and deepspeed

    train(config)


if __name__ == "__main__":
    run_command(main)
