"""What ZeRO saves: bytes that each of two CPU processes holds at stages 0-3, beside the plan and DeepSpeed's estimate.

The steps are those of pretraining on random pixels and tokens. Totals and checkpoints must be within 2 % of the plan,
and the losses of all stages must agree. The exit code is 1 if they do not.
"""

from bench.harness import run_bench
from bench.settings import ZeroBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_zero.py                                # a few minutes
  python scripts/bench_zero.py --stages 0 3 --width 512 --steps 3
"""


def main() -> None:
    run_bench("zero", ZeroBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
