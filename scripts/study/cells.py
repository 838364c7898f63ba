"""The cells of a study.

A cell is one piece of work, run in one lane or one SLURM job: an encoder's pretraining, its probes, or a bridge with
its scores. It is a list of this project's commands, and the names of the cells that must be done before.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pretrain.config import OBJECTIVES
from study.probes import named_probes
from study.settings import SPLITS, StudySettings
from vlm.errors import UserError

SECOND = "-second"


@dataclass(frozen=True)
class Encoder:
    """One encoder of a study. kind: objective, given, random or blind. what: an objective, a name for bridge/train.py's
    --encoder, or the name of the encoder whose twin it is. flags: of its own pretraining, beside all encoders'.
    """

    name: str
    kind: str
    what: str
    flags: tuple[str, ...] = ()


def encoders(settings: StudySettings) -> dict[str, Encoder]:
    """The encoders by name, in order. Raises: UserError if two share a name, or a twin's other is not there."""
    found: dict[str, Encoder] = {}
    for given in settings.encoders:
        text, _, typed = given.partition(" --")
        flags = tuple(shlex.split(f"--{typed}")) if typed else ()
        name, equals, what = text.partition("=")
        what = what if equals else text
        if not equals:
            name = Path(what.removeprefix("random:").split(":")[-1]).name if "/" in what else what
            name = ("random-" if what.startswith("random:") else "") + name.removeprefix("random:")
        name = name.replace(":", "-").replace("/", "-")
        if not name or not what or name in found:
            raise UserError(f"--encoders {text}: two are named {name!r}, or it has no name: give NAME={what or 'WHAT'}")
        kind = "objective" if what in OBJECTIVES else "blind" if what == "blind" else "given"
        if what.startswith("random:"):
            kind, what = "random", what.removeprefix("random:")
        if flags and kind != "objective":
            raise UserError(f"--encoders {given}: {what} is not pretrained here, so it takes no flags")
        found[name] = Encoder(name, kind, what, flags)
    for encoder in found.values():
        if encoder.kind == "random" and (encoder.what not in found or found[encoder.what].kind == "random"):
            raise UserError(f"--encoders {encoder.name}: {encoder.what} is no encoder of this study: name it as well")
    return found


@dataclass(frozen=True)
class Cell:
    """commands: of this project, in order. needs: names of cells. results: the evaluation's folder, if it has one."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    results: Path | None = None


def pretrain_name(encoder: Encoder, seed: int) -> str:
    return f"pretrain-{encoder.name}-{seed}"


def bridge_name(encoder: str, llm: str, seed: int) -> str:
    return f"bridge-{encoder}-{Path(llm).name}-{seed}"


def cells(settings: StudySettings) -> dict[str, Cell]:
    """Every cell of a study, each after the ones it needs."""
    out, known = Path(settings.out), encoders(settings)
    found: dict[str, Cell] = {}
    for encoder in known.values():
        if encoder.kind == "objective":
            for seed in settings.seeds:
                cell = _pretrain(settings, encoder, seed)
                found[cell.name] = cell
    for seed in settings.seeds:  # a seed's cells together: after the first, a whole comparison can be looked at
        for encoder in known.values():
            for llm in settings.llms:
                cell = _bridge(settings, known, encoder, llm, seed)
                found[cell.name] = cell
                if settings.second_stage:
                    second = _second(settings, cell, seed)
                    found[second.name] = second
    probed = _probed(settings)
    for encoder in known.values():
        if encoder.kind == "objective" and probed:
            for seed in settings.seeds:
                name, before = f"probes-{encoder.name}-{seed}", pretrain_name(encoder, seed)
                world = (settings.world,) if uses_world(settings) else ()
                tasks = ("--tasks", *probed, "--json", str(out / "probes" / f"{encoder.name}-{seed}.json"))
                command = ("scripts/probe_world.py", str(out / before / "encoder"), *world, *tasks)
                found[name] = Cell(name, (command,), (before,))
    return found


def _probed(settings: StudySettings) -> tuple[str, ...]:
    """The probes to run. Raises: UserError if one cannot be."""
    if settings.probes == ("none",):
        return ()
    if not uses_world(settings) and settings.probes == StudySettings().probes:
        return ()
    named_probes(settings.probes, settings.world if uses_world(settings) else None)
    return settings.probes


def uses_world(settings: StudySettings) -> bool:
    return not (settings.gqa or settings.vqav2 or settings.pope)


def _pretrain(settings: StudySettings, encoder: Encoder, seed: int) -> Cell:
    name = pretrain_name(encoder, seed)
    captions = settings.captions or str(Path(settings.world) / "captions")
    if not settings.captions and not uses_world(settings):
        raise UserError(f"{encoder.name} is to be pretrained: say on what by --captions")
    place = ("--data", captions, "--out", str(Path(settings.out) / name), "--objective", encoder.what)
    flags = (*shlex.split(settings.pretrain_flags), *encoder.flags)
    return Cell(name, (("pretrain/run.py", *place, "--seed", str(seed), *flags),))


def _bridge(settings: StudySettings, known: Mapping[str, Encoder], encoder: Encoder, llm: str, seed: int) -> Cell:
    other = known[encoder.what] if encoder.kind == "random" else encoder
    needs = (pretrain_name(other, seed),) if other.kind == "objective" else ()
    given = str(Path(settings.out) / needs[0] / "encoder") if needs else other.what
    given = f"random:{given}" if encoder.kind == "random" else given
    name = bridge_name(encoder.name, llm, seed)
    out = Path(settings.out) / name
    flags = ("--llm", llm, "--encoder", given, "--out", str(out), "--seed", str(seed))
    train = ("bridge/train.py", *_questions(settings), *flags, *shlex.split(settings.bridge_flags))
    return Cell(name, (train, _evaluate(settings, out)), needs, out / "eval")


def _second(settings: StudySettings, first: Cell, seed: int) -> Cell:
    out = Path(settings.out) / (first.name + SECOND)
    place = ("--init", str(Path(settings.out) / first.name / "vlm"), "--out", str(out), "--seed", str(seed))
    train = ("bridge/train.py", *_questions(settings), *place, *shlex.split(settings.second_stage))
    return Cell(out.name, (train, _evaluate(settings, out)), (first.name,), out / "eval")


def _questions(settings: StudySettings) -> tuple[str, ...]:
    """Training questions: POPE has none."""
    if uses_world(settings):
        return ("--gqa", str(Path(settings.world) / "gqa"), "--vqav2", str(Path(settings.world) / "vqav2"))
    given = (("--gqa", settings.gqa), ("--vqav2", settings.vqav2))
    return tuple(part for pair in given if pair[1] for part in pair if part)


def _evaluate(settings: StudySettings, run: Path) -> tuple[str, ...]:
    if uses_world(settings):
        world, names = Path(settings.world), SPLITS[settings.split]
        data = ("--gqa", str(world / "gqa"), "--gqa-split", names["gqa"], "--vqav2", str(world / "vqav2"))
        data += ("--vqav2-split", names["vqav2"], "--pope", str(world / names["pope"]))
    else:
        given = (("--gqa", settings.gqa), ("--vqav2", settings.vqav2), ("--pope", settings.pope))
        data = tuple(part for pair in given if pair[1] for part in pair if part)
    limit = () if settings.limit_images is None else ("--limit-images", str(settings.limit_images))
    return (
        "bridge/evaluate.py",
        str(run / "vlm"),
        *data,
        "--out",
        str(run / "eval"),
        *limit,
        *shlex.split(settings.evaluate_flags),
    )
