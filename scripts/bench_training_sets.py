"""Time and memory of opening GQA's and VQAv2's training questions at their real size, as bridge/train.py does."""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError, run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/bench_training_sets.py /tmp/sets --make     # synthetic files of about the official sizes, 1.2 GB
  python scripts/bench_training_sets.py /tmp/sets            # the first time parses, the second finds the columns
"""


@dataclass(frozen=True)
class TrainingSetsBench:
    folder: str = setting(help="where the synthetic files are", metavar="DIR", positional=True)
    make: bool = setting(False, help="write them; a folder that has files in it is refused")


def main() -> None:
    config = parse(TrainingSetsBench, prog="python scripts/bench_training_sets.py", about=__doc__, examples=EXAMPLES)
    folder = Path(config.folder)
    if not config.make and not (folder / "gqa").is_dir():
        raise UserError(f"{folder} has no synthetic files: write them with --make")
    from bench import training_sets  # torch
    from world.making import vacant

    # Real downloads have the names of the files that are written.
    training_sets.make(vacant(config.folder)) if config.make else training_sets.open_sets(folder)


if __name__ == "__main__":
    run_command(main)
