"""LeVLJEPA, LeVLJEPA+, CLIP and SigLIP on the embedded world: the same towers, data, batch, optimizer and schedule.

Each objective and seed trains an encoder, which every probe then measures on scenes it has not seen; a training that
was cut off goes on where it was. The columns differ in the loss, and LeVLJEPA+ moreover sees six augmented crops an
image. With --bridge a connector is trained on each encoder and on the same ViT untrained, and scored on held-out
scenes: the paper's table of gains over random weights, in one command.
"""

from study.objectives import ObjectivesSettings, run

from vlm.errors import run_command
from vlm.run.settings import parse

EXAMPLES = """examples:
  python scripts/compare_objectives.py                                    # two seeds of 300 steps, some minutes
  python scripts/compare_objectives.py --steps 2500 --seeds 0 1 2 --out runs/objectives-long
  python scripts/compare_objectives.py --objectives clip siglip --pretrain-flags "--lr 1e-3"
  python scripts/compare_objectives.py --objectives levljepa clip siglip --steps 5400 --out runs/paper \\
      --bridge "--steps 400 --batch-questions 8 --lr 5e-3"                # also the paper's table
"""


def main() -> None:
    run(parse(ObjectivesSettings, prog="scripts/compare_objectives.py", about=__doc__, examples=EXAMPLES))


if __name__ == "__main__":
    run_command(main)
