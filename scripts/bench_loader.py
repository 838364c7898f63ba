"""How fast image-caption pairs become tensors: reduced-size against full decoding, threads, and the whole loader.

It draws its own 1024 x 768 JPEGs (a photograph's spectrum and uneven contrast, hard edges, quality 85) and compares the
pipeline of the published codes (full decode, PIL bicubic, normalise) with this one: on one thread, image by image, in
CPU time, which a busy machine disturbs least. Quality is the mean absolute difference of the final tensors, in levels
of 255, beside two yardsticks: the loss of the JPEG itself, and PIL's bilinear filter in place of its bicubic one.
The exit code is 1 if a goal is missed.
"""

from bench.harness import run_bench
from bench.settings import LoaderBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_loader.py
  python scripts/bench_loader.py --image-size 64 --images 32
  python scripts/bench_loader.py --margins      # why 1.5 pixels are kept for each pixel of the result
"""


def main() -> None:
    run_bench("loader", LoaderBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
