"""Questions per second and memory of the bridge's training step against the stock model's, in one run on one machine.

The reference is the stock LLaVA with labels, one question a sequence: every question is a sequence with the image in
it, padded in a batch, through the vision tower in every step, with logits at every position. The bridge's step takes
cached features, all questions of an image in one row, and logits at the labels alone. Both train the connector by
AdamW. LLaVA-1.5's own training merges all questions of an image into one conversation. It is timed as a second
reference: the image once, no mask of its own, any stock trainer. Each question there sees those before it with their
answers, so it trains on other contexts than a benchmark gives, and its loss is another one; the bridge's questions are
isolated, and its labels exact.

Sizes are ViT-B/16's and Qwen2.5-1.5B's, with random weights and few of the 28 layers. Few layers flatter the bridge,
which computes hardly any logits, so both ways are also given for all 28: the layers are alike, and what each misses is
added at the measured time of one. Questions share no words here; real ones do ("Is there a"), which the bridge uses.

Memory is the growth of the peak resident size in the first step of a fresh process, after model and data are loaded.
The exit code is 1 if a goal is missed.
"""

from bench.harness import run_bench
from bench.settings import BridgeBench

from vlm.errors import run_command

EXAMPLES = """examples:
  python scripts/bench_bridge.py                      # both cases, about 10 GB of memory
  python scripts/bench_bridge.py --cases vqav2 --dtype fp32 --pairs 5
  python scripts/bench_bridge.py --full               # the bridge alone, all 28 layers in bf16, about 6 GB
  python scripts/bench_bridge.py --host               # tokenising, packing and pixels alone, on two cores
"""


def main() -> None:
    run_bench("bridge", BridgeBench, __doc__, EXAMPLES)


if __name__ == "__main__":
    run_command(main)
