"""Four held-out questions of different kinds, with a model's answers beside the true ones.

They are of the embedded world, or of a folder that scripts/prepare_pictures.py made.

Which ones is decided by --seed alone, whether the answers are right or wrong. OUT/examples.png shows the pictures.
"""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import run_command
from vlm.run.settings import parse, seed_setting, setting

EXAMPLES = """examples:
  python scripts/show_answers.py runs/world runs/eval/pretrained --out runs
  python scripts/show_answers.py runs/world runs/eval/pretrained --seed 7
  python scripts/show_answers.py data/pictures runs/pictures/eval --split val2014 --out runs/pictures
"""


@dataclass(frozen=True)
class ShowSettings:
    data: str = setting(help="the world's folder, or one with VQAv2 and POPE", positional=True)
    evaluation: str = setting(help="the folder that bridge/evaluate.py wrote", positional=True)
    out: str | None = setting(None, help="also draw OUT/examples.png", metavar="OUT")
    split: str = setting("test-dev2015", help="VQAv2's split that was evaluated; GQA's and POPE's follow it")
    seed: int = seed_setting(help="decides which questions")
    pick: bool = setting(False, help="print only image and question, by a tab, of the first right one, or the first")


def main() -> None:
    settings = parse(ShowSettings, prog="scripts/show_answers.py", about=__doc__, examples=EXAMPLES)
    from study.shown import as_text, choose, draw, first_right  # after parsing: --help does not wait for numpy

    evaluation = Path(settings.evaluation)
    shown = choose(Path(settings.data), evaluation, settings.split, settings.seed)
    if settings.pick:
        example = first_right(shown).example
        print(f"{example.image}\t{example.question}")
        return
    print(as_text(shown, evaluation))
    if settings.out:
        draw(shown, Path(settings.out) / "examples.png")


if __name__ == "__main__":
    run_command(main)
