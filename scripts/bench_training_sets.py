"""Time and memory of opening GQA's and VQAv2's training questions at their real size, as bridge/train.py does.

python scripts/bench_training_sets.py make DIR     # synthetic files of about the official sizes, 1.2 GB, once
python scripts/bench_training_sets.py open DIR     # the first time parses, the second finds the columns
"""

import argparse
from pathlib import Path

from vlm.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("make", "open"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    from bench import training_sets

    {"make": training_sets.make, "open": training_sets.open_sets}[given.task](given.folder)


if __name__ == "__main__":
    run_command(main)
