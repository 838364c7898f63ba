"""The LeVLJEPA step against a plain one, the text tower by length groups, a ViT-B's step by part, the host's part.

Times are CPU seconds of one thread, of pairs measured in turn; a ratio is the median of the pairs' ratios. The exit
code is 1 if a goal is missed.

step   a model of some 6.5 M parameters, batch 128: forward, loss, backward, clipping, AdamW. The plain step differs in
       three things: SIGReg stores its (B, P, 17) harmonics, captions are padded to 77 tokens, AdamW is not fused.
text   forward and backward of its text tower over 256 captions of 24 tokens on average: in groups, and padded to 77.
shares floating-point operations of a ViT-B's step (forward and backward) by part: matrix products as torch's
       FlopCounterMode counts them, on tensors without data; SIGReg's by hand, its elementwise ones included.
host   milliseconds that the main thread spends in a step of ViT-B on captions and SIGReg's directions: in the step, as
       it was, and ahead of it, as it is; wall time, with the device's 151 ms slept between. Bytes of a batch of pixels.
       How often a step waits for its device is counted by tests/pretrain/test_reads.py.
"""

from bench.harness import run_bench
from bench.settings import StepBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_step.py
  python scripts/bench_step.py --parts step --pairs 15
  python scripts/bench_step.py --parts host
  python scripts/bench_step.py --parts step text --pairs 1 --batch 8      # only to see that it runs
"""


def main() -> None:
    run_bench("step", StepBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
