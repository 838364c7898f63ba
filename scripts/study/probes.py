"""What a probe of an encoder is measured on: the embedded world's part for its task, or data of another name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError

# Task -> where make_world.py puts what it is measured on. Of captions alone there are two held-out splits.
PLACES = {
    "zero-shot": "classes",
    "linear": "classes",
    "attentive": "classes",
    "knn": "classes",
    "segmentation": "segmentation",
    "backgrounds": "backgrounds",
    "retrieval": "captions/{split}-*.tar",
    "objects": "gqa",
}


@dataclass(frozen=True)
class Probe:
    """name: what its numbers are called. data: what pretrain/probe.py takes for the task."""

    name: str
    task: str
    data: str


def named_probes(tasks: Sequence[str], world: str | None, split: str = "testdev") -> list[Probe]:
    """The probes that --tasks asks for. split: of the world's captions, testdev, or val to choose settings.

    Raises: UserError if one is unknown, needs a world, or has another's name.
    """
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
        found[name] = Probe(name, task, data or str(Path(world or "") / PLACES[task].format(split=split)))
    return list(found.values())
