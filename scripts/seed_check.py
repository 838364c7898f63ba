"""Is the gain of a pretrained encoder more than luck? The whole chain over several seeds, all of them reported.

Each seed trains an encoder, then one connector on it and one on the same ViT with random weights (and, with --blind,
one on an encoder that sees nothing), and scores them on held-out scenes. With --second-stage each goes on from there,
with LoRA for instance, and is scored again. Called again, finished parts are not made again.
"""

from study.seeds import SeedsSettings, run

from vlm.errors import run_command
from vlm.run.settings import parse

EXAMPLES = """examples:
  python scripts/seed_check.py --world runs/world --out runs/seeds
  python scripts/seed_check.py --world runs/world --out runs/choice --seeds 7 8 --split val      # to choose settings
  python scripts/seed_check.py --world runs/world --seeds 0 --second-stage "--lora 8 --steps 400 --lr 2e-3"
"""


def main() -> None:
    run(parse(SeedsSettings, prog="scripts/seed_check.py", about=__doc__, examples=EXAMPLES))


if __name__ == "__main__":
    run_command(main)
