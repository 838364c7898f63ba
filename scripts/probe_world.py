"""Every probe of pretrain/probe.py on the embedded world, with one loaded encoder: half a minute on one core."""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import run_command
from vlm.files import write_json
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/probe_world.py runs/pretrain/encoder runs/world
  python scripts/probe_world.py runs/pretrain/encoder runs/world --tasks zero-shot knn --json probes.json
"""
# Task -> where make_world.py puts what it is measured on.
PLACES = {
    "zero-shot": "classes",
    "linear": "classes",
    "attentive": "classes",
    "knn": "classes",
    "segmentation": "segmentation",
    "backgrounds": "backgrounds",
    "retrieval": "captions/testdev-*.tar",
    "objects": "gqa",
}


@dataclass(frozen=True)
class ProbeSettings:
    encoder: str = setting(help="RUN/encoder", positional=True)
    world: str = setting(help="the folder that scripts/make_world.py made", positional=True)
    tasks: tuple[str, ...] = setting(tuple(PLACES), help="what to measure", choices=tuple(PLACES))
    json: str | None = setting(None, help="also write the numbers to this file", metavar="F")


def main() -> None:
    settings = parse(ProbeSettings, prog="scripts/probe_world.py", about=__doc__, examples=EXAMPLES)
    from study.probing import measure  # after parsing: --help does not wait for torch

    data = {task: str(Path(settings.world) / PLACES[task]) for task in settings.tasks}
    numbers = measure(Path(settings.encoder), data)
    if settings.json:
        write_json(Path(settings.json), numbers)


if __name__ == "__main__":
    run_command(main)
