"""Time and memory of opening GQA's and VQAv2's training questions at their real size, as bridge/train.py does.

It prints no PASS or FAIL: there is no second way to compare with, and the seconds are as much the disk's as ours.
"""

from bench.harness import run_bench
from bench.settings import TrainingSetsBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_training_sets.py /tmp/sets --make     # synthetic files of about the official sizes, 1.2 GB
  python scripts/bench_training_sets.py /tmp/sets            # the first time parses, the second finds the columns
"""


def main() -> None:
    run_bench("training_sets", TrainingSetsBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
