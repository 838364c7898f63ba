"""The cells of a study.

A cell is one piece of work, run in one lane or one SLURM job: an encoder's pretraining, its probes, or a bridge with
its scores. It is a list of this project's commands, and the names of the cells that must be done before.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pretrain.config import OBJECTIVES
from study.probes import Probe, named_probes
from study.settings import SPLITS, StudySettings, split_flags
from vlm.encoders.naming import PREFIXED, parse_encoder
from vlm.errors import UserError
from vlm.hub import is_hub_id
from vlm.llms.presets import PRESETS

SECOND = "-second"
WORLD_PROBES = ("zero-shot", "knn", "retrieval")  # of an encoder that a study pretrains, unless others are asked for


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
    """The encoders by name, in order.

    Raises: UserError if two share a name, one is nothing that there is, or a twin's other is not there.
    """
    found: dict[str, Encoder] = {}
    for given in settings.encoders:
        text, _, typed = given.partition(" --")
        flags = split_flags("--encoders", f"--{typed}") if typed else ()
        name, what = _named(text.strip())
        if not name or not what or name in found:
            raise UserError(f"--encoders {text}: two are named {name!r}, or it has no name: give NAME={what or 'WHAT'}")
        encoder = Encoder(name, *_kind(what), flags)
        if flags and encoder.kind != "objective":
            raise UserError(f"--encoders {given}: {what} is not pretrained here, so it takes no flags")
        found[name] = encoder
    for encoder in found.values():
        if encoder.kind == "random" and (encoder.what not in found or found[encoder.what].kind == "random"):
            raise UserError(f"--encoders {encoder.name}: {encoder.what} is no encoder of this study: name it as well")
    return found


def _named(text: str) -> tuple[str, str]:
    """Name and WHAT of "NAME=WHAT", or of WHAT alone: "hf:org/dino" is named dino."""
    name, equals, what = text.partition("=")
    if not equals or Path(text).expanduser().is_dir():
        what = text
        name = Path(what.removeprefix("random:").split(":")[-1]).name if "/" in what else what
        name = ("random-" if what.startswith("random:") else "") + name.removeprefix("random:")
    return name.replace(":", "-").replace("/", "-"), what


def _kind(what: str) -> tuple[str, str]:
    """Kind and `what` of an encoder. Raises: UserError if there is no such thing."""
    if what in OBJECTIVES:
        return "objective", what
    if what == "blind":
        return "blind", what
    if what.startswith("random:"):
        return "random", what.removeprefix("random:")
    named = parse_encoder(what)
    if named.kind in PREFIXED or (named.path and named.path.is_dir()) or is_hub_id(what):
        return "given", str(named.absolute)  # called from another folder, the same words could name another encoder
    known = ", ".join((*OBJECTIVES, "blind"))
    raise UserError(f"--encoders {what}: give {known}, random:NAME, an encoder's folder or hub id, hf:... or timm:...")


@dataclass(frozen=True)
class Cell:
    """commands: of this project, in order. product: the file that is there when they are done. needs: names of cells.

    after: the commands of all cells that it needs, and of those that they need: what it is made from. given: models
    here that it is made from as well, and that no cell makes. kind: what takes about as long as it.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    product: Path
    needs: tuple[str, ...] = ()
    after: tuple[tuple[str, ...], ...] = ()
    given: tuple[str, ...] = ()
    kind: str = ""


def pretrain_name(encoder: Encoder, seed: int) -> str:
    return f"pretrain-{encoder.name}-{seed}"


def bridge_name(encoder: str, llm: str, seed: int) -> str:
    return f"bridge-{encoder}-{Path(llm).name}-{seed}"


def cells(settings: StudySettings) -> dict[str, Cell]:
    """Every cell of a study, each after the ones it needs. Raises: UserError if two would have the same name."""
    names = Counter(Path(llm).name for llm in settings.llms)
    if clash := [name for name, count in names.items() if count > 1]:
        raise UserError(f"--llms: two are named {clash[0]!r} in the table: rename a folder, or make a link to it")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise UserError(f"--seeds {' '.join(map(str, settings.seeds))}: give each once")
    known = encoders(settings)
    trained = [encoder for encoder in known.values() if encoder.kind == "objective"]
    found: dict[str, Cell] = {}
    for encoder in trained:
        for seed in settings.seeds:
            _add(found, _pretrain(settings, encoder, seed))
    for seed in settings.seeds:  # a seed's cells together: after the first, a whole comparison can be looked at
        for encoder in known.values():
            for llm in settings.llms:
                first = _add(found, _bridge(settings, found, known, encoder, llm, seed))
                if settings.second_stage:
                    _add(found, _second(settings, first, llm, seed))
    for encoder in trained if chosen_probes(settings) else ():
        for seed in settings.seeds:
            _add(found, _probes(settings, found[pretrain_name(encoder, seed)], encoder, seed))
    return found


def _add(found: dict[str, Cell], cell: Cell) -> Cell:
    if cell.name in found:  # encoder "a" with LLM "b-c", and "a-b" with "c"
        raise UserError(f"two cells would be named {cell.name}: give an encoder another name, NAME=WHAT")
    found[cell.name] = cell
    return cell


def chosen_probes(settings: StudySettings) -> list[Probe]:
    """The probes to run. Raises: UserError if one cannot be."""
    return named_probes(_asked_probes(settings), settings.world if uses_world(settings) else None, settings.split)


def _asked_probes(settings: StudySettings) -> tuple[str, ...]:
    """The probes as they are asked for: knn, or NAME=TASK:DATA."""
    if settings.probes == ("none",):
        return ()
    return settings.probes or (WORLD_PROBES if uses_world(settings) else ())


def uses_world(settings: StudySettings) -> bool:
    return not (settings.gqa or settings.vqav2 or settings.pope)


def _pretrain(settings: StudySettings, encoder: Encoder, seed: int) -> Cell:
    out = Path(settings.out) / pretrain_name(encoder, seed)
    captions = settings.captions or str(Path(settings.world) / "captions")
    if not settings.captions and not uses_world(settings):
        raise UserError(f"{encoder.name} is to be pretrained: say on what by --captions")
    place = ("--data", captions, "--out", str(out), "--objective", encoder.what, "--seed", str(seed))
    flags = (*split_flags("--pretrain-flags", settings.pretrain_flags), *encoder.flags)
    command = ("pretrain/run.py", *place, *flags)
    return Cell(out.name, (command,), out / "encoder/config.json", kind=f"pretrain {encoder.name}")


def _probes(settings: StudySettings, before: Cell, encoder: Encoder, seed: int) -> Cell:
    file = probes_file(settings, encoder.name, seed)
    world = (settings.world,) if uses_world(settings) else ()
    # The default split is not said, so that cells which were run before there was a choice still count.
    split = () if settings.split == StudySettings.split else ("--split", settings.split)
    command = (
        "scripts/probe_world.py",
        str(before.product.parent),
        *world,
        "--tasks",
        *_asked_probes(settings),
        *split,
        "--json",
        str(file),
    )
    return Cell(f"probes-{file.stem}", (command,), file, (before.name,), before.commands, kind="probes")


def probes_file(settings: StudySettings, encoder: str, seed: int) -> Path:
    return Path(settings.out) / "probes" / f"{encoder}-{seed}.json"


def _bridge(
    settings: StudySettings,
    found: Mapping[str, Cell],
    known: Mapping[str, Encoder],
    encoder: Encoder,
    llm: str,
    seed: int,
) -> Cell:
    other = known[encoder.what] if encoder.kind == "random" else encoder
    before = found[pretrain_name(other, seed)] if other.kind == "objective" else None
    given = str(before.product.parent) if before else other.what
    given = f"random:{given}" if encoder.kind == "random" else given
    out = Path(settings.out) / bridge_name(encoder.name, llm, seed)
    flags = ("--llm", llm, "--encoder", given, "--out", str(out), "--seed", str(seed))
    bridge_flags = split_flags("--bridge-flags", settings.bridge_flags)
    commands = (("bridge/train.py", *_questions(settings), *flags, *bridge_flags), _evaluate(settings, out))
    needs, after = ((before.name,), before.commands) if before else ((), ())
    models = (None if before else parse_encoder(other.what).path, None if llm in PRESETS else Path(llm))
    folders = tuple(str(model) for model in models if model is not None and model.exists())
    return Cell(out.name, commands, out / "eval/results.json", needs, after, folders, f"bridge {llm}")


def _second(settings: StudySettings, first: Cell, llm: str, seed: int) -> Cell:
    out = Path(settings.out) / (first.name + SECOND)
    place = ("--init", str(Path(settings.out) / first.name / "vlm"), "--out", str(out), "--seed", str(seed))
    flags = split_flags("--second-stage", settings.second_stage)
    commands = (("bridge/train.py", *_questions(settings), *place, *flags), _evaluate(settings, out))
    after = (*first.after, *first.commands)
    kind = f"second stage {llm}"
    return Cell(out.name, commands, out / "eval/results.json", (first.name,), after, first.given, kind)


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
    place = (str(run / "vlm"), *data, "--out", str(run / "eval"), *limit)
    return ("bridge/evaluate.py", *place, *split_flags("--evaluate-flags", settings.evaluate_flags))
