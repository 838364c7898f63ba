"""Probes of pretrain/probe.py with one loaded encoder: on the embedded world, half a minute on one core, or any data.

A task is measured on the world's own part for it. NAME=TASK:DATA measures it on other data, and says so by its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError, run_command
from vlm.files import write_json
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/probe_world.py runs/pretrain/encoder runs/world
  python scripts/probe_world.py runs/pretrain/encoder runs/world --tasks zero-shot knn --json probes.json
  python scripts/probe_world.py runs/pretrain/encoder --tasks 'unseen=retrieval:data/pictures/captions/vendor-*.tar'
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
    world: str | None = setting(None, help="the folder that scripts/make_world.py made", positional=True)
    tasks: tuple[str, ...] = setting(
        tuple(PLACES), help=f"of {', '.join(PLACES)}, or NAME=TASK:DATA", metavar="TASK", default_text="all"
    )
    json: str | None = setting(None, help="also write the numbers to this file", metavar="F")


@dataclass(frozen=True)
class Probe:
    """name: what its numbers are called. data: what pretrain/probe.py takes for the task."""

    name: str
    task: str
    data: str


def named_probes(tasks: Sequence[str], world: str | None) -> list[Probe]:
    """The probes that --tasks asks for. Raises: UserError if one is unknown, needs a world, or has another's name."""
    found: dict[str, Probe] = {}
    for text in tasks:
        name, equals, what = text.partition("=")
        task, _, data = what.partition(":") if equals else (text, "", "")
        if task not in PLACES or (equals and not (name and data)):
            raise UserError(f"{text!r} is no probe: give of {', '.join(PLACES)}, or NAME=TASK:DATA")
        if not equals and world is None:
            raise UserError(f"{text} is measured on the embedded world: give its folder, or NAME={text}:DATA")
        if name in found:
            raise UserError(f"two probes are named {name}: give each NAME=TASK:DATA a name of its own")
        found[name] = Probe(name, task, data or str(Path(world or "") / PLACES[task]))
    return list(found.values())


def main() -> None:
    settings = parse(ProbeSettings, prog="scripts/probe_world.py", about=__doc__, examples=EXAMPLES)
    probes = named_probes(settings.tasks, settings.world)
    from study.probing import measure  # after parsing: --help does not wait for torch

    numbers = measure(Path(settings.encoder), probes)
    if settings.json:
        write_json(Path(settings.json), numbers)


if __name__ == "__main__":
    run_command(main)
