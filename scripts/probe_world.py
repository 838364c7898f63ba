"""Probes of pretrain/probe.py with one loaded encoder: on the embedded world, half a minute on one core, or any data.

A task is measured on the world's own part for it. NAME=TASK:DATA measures it on other data, and says so by its name.
"""

from dataclasses import dataclass
from pathlib import Path

from study.probes import PLACES, named_probes

from vlm.errors import run_command
from vlm.files import write_json
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/probe_world.py runs/pretrain/encoder runs/world
  python scripts/probe_world.py runs/pretrain/encoder runs/world --tasks zero-shot knn --json probes.json
  python scripts/probe_world.py runs/pretrain/encoder --tasks 'unseen=retrieval:data/pictures/captions/vendor-*.tar'
"""


@dataclass(frozen=True)
class ProbeSettings:
    encoder: str = setting(help="RUN/encoder", positional=True)
    world: str | None = setting(None, help="the folder that scripts/make_world.py made", positional=True)
    tasks: tuple[str, ...] = setting(
        tuple(PLACES), help=f"of {', '.join(PLACES)}, or NAME=TASK:DATA", metavar="TASK", default_text="all"
    )
    split: str = setting("testdev", help="of the world's captions: val to choose settings", choices=("testdev", "val"))
    json: str | None = setting(None, help="also write the numbers to this file", metavar="F")


def main() -> None:
    settings = parse(ProbeSettings, prog="scripts/probe_world.py", about=__doc__, examples=EXAMPLES)
    probes = named_probes(settings.tasks, settings.world, settings.split)
    from study.probing import measure  # after parsing: --help does not wait for torch

    numbers = measure(Path(settings.encoder), probes)
    if settings.json:
        write_json(Path(settings.json), numbers)


if __name__ == "__main__":
    run_command(main)
