"""Time, memory and error of `pretrain.sigreg` against the plain formulation, which stores every harmonic.

Ours and the reference take turns in one process; the ratio is the median of the pairs' ratios. Memory is the growth of
the peak resident size in a fresh process. The exit code is 1 if a goal is missed.
"""

from bench.harness import run_bench
from bench.settings import SigregBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_sigreg.py                              # all four sizes: some minutes, 7 GB of memory
  python scripts/bench_sigreg.py --cases 256x256 --pairs 21
  python scripts/bench_sigreg.py --cases 256x256 --compile    # also against torch.compile of the plain formulation
"""


def main() -> None:
    run_bench("sigreg", SigregBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
