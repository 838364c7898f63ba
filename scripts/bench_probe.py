"""Time to read a training set's patch tokens as often as the attentive probe does, against encoding every pass anew.

The reference is the plain way: one pass for mean and deviation, and one for each of 20 epochs; each image is decoded,
resized and encoded in float32 every time. `pretrain.probes.tokens` encodes each image once, in the device's fast
precision, keeps the tokens as float16, and reads them. The error is of the tokens, relative to the float32 ones. The
exit code is 1 if a goal is missed.
"""

from bench.harness import run_bench
from bench.settings import ProbeBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_probe.py                         # a ViT of ViT-Ti's sizes, 64 JPEGs: a minute
  python scripts/bench_probe.py --images 256 --dtype fp32
"""


def main() -> None:
    run_bench("probe", ProbeBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
