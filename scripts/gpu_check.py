"""What a GPU does with this project: the same numbers as a CPU, and how fast. For one GPU, in six minutes.

Each part is run while there is time, prints its rows and adds them to OUT/gpu_check.json, so that a check that is
stopped keeps what it measured. Run again with other --parts, it adds to the file, and replaces only what it measures
now. The exit code is 1 if a row of now does not pass.

ceilings  what the card gives: a large product, a large copy
sigreg    value and gradient against float64, under bf16 autocast and TF32
step      a small pretraining step: float32 and bf16, whole and in micro-batches, against a CPU in float64
host      what a step waits for on the CPU if nothing is done ahead: directions, tokens
pretrain  ViT-B/16 and GPT-2 in bf16: images a second, MFU with and without --compile, SIGReg's share of the step,
          the share of time in which the GPU idles, peak memory, and a batch of 4,096 in micro-batches
tars      pretrain/run.py from JPEG tars: images a second and MFU of the whole command
bridge    the bridge's step at Qwen2.5-1.5B's sizes: losses and gradients against one question a sequence in float32;
          questions and tokens a second, MFU and peak memory beside both of LLaVA's ways, the share of time in which the
          GPU idles; a layer under a dense mask, an unaligned one and FlexAttention's; an LLM in 4 bits, if bitsandbytes
          is there; what 8 ranks would gain, by how a step is dealt out to them
resume    pretrain/run.py under ZeRO-1: run twice, and resumed at half its steps, equal to the last bit
"""

from gpu.settings import GpuCheck

from vlm.errors import run_command
from vlm.run.settings import parse

EXAMPLES = """examples:
  python scripts/gpu_check.py --out /tmp/gpu                        all that fits into six minutes
  python scripts/gpu_check.py --parts bridge resume                 what was left out
  python scripts/gpu_check.py --smoke --device cpu --out /tmp/gpu   tiny sizes, to see that every part runs
  scripts/gpu_wheels.sh DIR                                         wheels for a machine without a network
"""


def main() -> None:
    settings = parse(GpuCheck, prog="scripts/gpu_check.py", about=__doc__ or "", examples=EXAMPLES)
    from gpu.run import run  # after parsing: --help does not wait for torch

    run(settings)


if __name__ == "__main__":
    run_command(main)
