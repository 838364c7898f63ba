"""Questions per second of bridge/evaluate.py's decoding against stock `generate`, one by one and in batches of 16.

Each way pays for everything from decoded image to answer: image processor, vision tower, prefill, decoding. The ways
take turns; printed is the median of each, and of the ratios within a round, beside the ratio that is needed. All three
must give the same answers in fp32; those that differ are counted, with the gap between the two logits in question. The
exit code is 1 if something needed is not reached.
"""

from bench.harness import run_bench
from bench.settings import EvaluateBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_evaluate.py      # SmolLM2-135M behind a small random ViT with 196 image tokens
  python scripts/bench_evaluate.py runs/bridge-qwen/vlm --images 4
"""


def main() -> None:
    run_bench("evaluate", EvaluateBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
