"""Compare frozen encoders under one bridge: the same questions, LLMs, settings and seeds for all of them.

A study is a set of encoders x LLMs x seeds. What must be pretrained is, and is then probed; every cell trains a
connector and is scored on held-out images. Called again after a kill it goes on with what is missing. OUT gets
study.md, .json and .png, study.html with answers on which the encoders disagree, and the paper's table of gains over
random weights. STUDY.yaml holds the flags by name, `seeds: [0, 1]`; a flag on the command line goes before it.

An encoder is NAME=WHAT, or WHAT alone:
  levljepa, levljepa-plus, clip, siglip   pretrained here, one for each seed, all with --pretrain-flags; flags may
                                          follow, of this one alone: "wide=levljepa --vision-width 768"
  DIR, hf:..., timm:...                   as bridge/train.py --encoder takes them
  random:NAME                             another encoder of the study with random weights
  blind                                   a ViT that cannot see
"""

from study.settings import settings_of

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/study.py --encoders levljepa clip siglip random:levljepa blind --seeds 0 1
  python scripts/study.py STUDY.yaml --dry-run            # every cell, what it trains, and its time as far as measured
  python scripts/study.py --encoders mine=runs/pretrain/encoder dino=hf:facebook/dinov2-small random:mine \\
      --llms qwen llama --gqa data/gqa --vqav2 data/vqav2 --pope data/pope --out runs/study-real
  python scripts/study.py STUDY.yaml --split val          # to choose settings; testdev is for the report
  python scripts/study.py STUDY.yaml --slurm "sbatch --gres=gpu:1 --time=4:00:00"     # one job a cell

STUDY.yaml:
  encoders: [levljepa, clip, random:levljepa, blind]
  seeds: [0, 1, 2]
  pretrain-flags: --steps 5400
  bridge-flags: --steps 400 --batch-questions 8 --lr 5e-3
  second-stage: --lora 8 --steps 400 --lr 2e-3            # each cell goes on from its connector, and is scored again
"""


def main() -> None:
    settings = settings_of(__doc__, EXAMPLES)
    from study.command import run  # after parsing: --help does not wait for it

    run(settings)


if __name__ == "__main__":
    run_command(main)
