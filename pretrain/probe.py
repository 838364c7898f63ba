"""The command `python pretrain/probe.py`: measure what a saved encoder has learnt. Nothing on top imports torch."""

import textwrap

from pretrain.probes.settings import TASKS, ProbeConfig, refuse_idle_flags
from vlm.errors import run_command
from vlm.files import refuse_output
from vlm.run import settings
from vlm.run.signals import keeping

EXAMPLES = """examples:
  python pretrain/probe.py runs/pretrain/encoder --task linear --data runs/world/classes
  python pretrain/probe.py runs/pretrain/encoder --task retrieval --data 'runs/world/captions/testdev-*.tar'
  python pretrain/probe.py lukaskuhndkfz/LeVLJEPA-ViT-B-DataComp-200k --task zero-shot --data /data/imagenet \\
      --resize crop --template 'a photo of a {}.' --json zero-shot.json
  python pretrain/probe.py hf:google/siglip-base-patch16-224 --task zero-shot --data /data/imagenet --resize crop
  python pretrain/probe.py runs/cc12m/encoder --task segmentation --data /data/ADEChallengeData2016
  torchrun --nproc-per-node 8 pretrain/probe.py runs/cc12m/encoder --task attentive --data /data/imagenet \\
      --resize crop --tokens /scratch
"""
WEIGHT_DECAY = "The weight decay of linear and attentive is chosen on a held-out tenth of train, never on val."


def tasks_explained() -> str:
    """The tasks as a table for `--help`: a name, and beside it what is measured on what."""
    lines = ["tasks and what --data is for each:"]
    for name, meaning in TASKS.items():
        wrapped = textwrap.wrap(meaning, 104)
        lines += [f"  {name:<14}{wrapped[0]}", *(" " * 16 + line for line in wrapped[1:])]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> ProbeConfig:
    """The command line -> checked config. Raises: UserError, also for flags that the task does not read."""
    examples = f"{EXAMPLES}\n{tasks_explained()}\n\n{WEIGHT_DECAY}"
    about = "Measure a frozen encoder."
    config = settings.parse(ProbeConfig, arguments, prog="pretrain/probe.py", about=about, examples=examples)
    refuse_idle_flags(config)
    return config


def main() -> None:
    config = parse()
    refuse_output("--json", config.json, [config.data] if config.data else [])
    from pretrain.data.workers import dead_loaders_told  # after parsing: --help must not wait for torch
    from pretrain.probes.pixels import FEWER
    from pretrain.probes.tasks import measure, table_line
    from vlm.device import CLOSE, enough_memory
    from vlm.distributed import is_main, join_processes, late_ranks_named
    from vlm.encoders.by_name import open_encoder
    from vlm.files import write_json

    encoder = open_encoder(config.encoder, config.seed, config.normalisation, config.image_size, config.heads)
    again = "nothing is written before the end, the same command starts anew"
    told = enough_memory(lambda: f"while {config.task} was measured", lambda: f"{CLOSE}; {again}")
    with late_ranks_named(config.timeout, again), told, keeping(again), dead_loaders_told(remedy=FEWER):
        numbers = measure(encoder.to(join_processes(config.timeout)), config)
    if not is_main():
        return
    print(table_line(config.task, numbers))
    if config.json:
        write_json(config.json, {"task": config.task, "encoder": config.encoder, "data": config.data, **numbers})


if __name__ == "__main__":
    run_command(main)
