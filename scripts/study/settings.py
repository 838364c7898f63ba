"""The settings of a study: flags of scripts/study.py, or the same names in a file."""

import shlex
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from study.probes import PLACES
from vlm.errors import UserError, one_line
from vlm.run.settings import build, flag, given, make_parser, seed_setting, setting

SPLITS = {
    "testdev": {"gqa": "testdev", "vqav2": "test-dev2015", "pope": "pope"},
    "val": {"gqa": "val", "vqav2": "val2014", "pope": "pope_val"},
}
OF_A_CALL = ("study", "dry_run", "only", "slurm")  # settings that say nothing about the study


@dataclass(frozen=True)
class StudySettings:
    """Flags of scripts/study.py, and the names that STUDY.yaml may hold."""

    study: str | None = setting(None, help="a file of these flags", positional=True, metavar="STUDY.yaml")
    encoders: tuple[str, ...] = setting(("levljepa", "random:levljepa", "blind"), help="what to compare", metavar="E")
    llms: tuple[str, ...] = setting(("smollm2",), help="frozen LLMs: names or folders, as bridge/train.py --llm")
    seeds: tuple[int, ...] = seed_setting((0, 1), help="each trains and scores everything")
    out: str = setting("runs/study", help="the tables, pictures and all runs", metavar="DIR")
    reference: str | None = setting(
        None, help="the row that gains are measured from", default_text="random, else blind"
    )
    world: str = setting(
        "runs/world", help="scripts/make_world.py's, drawn if it is not there", metavar="DIR", group="data"
    )
    captions: str | None = setting(
        None, help="what encoders are pretrained on", default_text="the world's", group="data"
    )
    gqa: str | None = setting(None, help="GQA's folder; with one of these three, no world", metavar="DIR", group="data")
    vqav2: str | None = setting(None, help="VQAv2's folder", metavar="DIR", group="data")
    pope: str | None = setting(None, help="POPE's folder", metavar="DIR", group="data")
    split: str = setting("testdev", help="of the world: val to choose settings", choices=tuple(SPLITS), group="data")
    limit_images: int | None = setting(None, help="images of each benchmark", least=1, group="data")
    pretrain_flags: str = setting(
        "",
        help='of pretrain/run.py, for all encoders; one word as --pretrain-flags="--compile"',
        metavar="FLAGS",
        group="budget",
    )
    bridge_flags: str = setting("", help="of bridge/train.py, for all cells", metavar="FLAGS", group="budget")
    second_stage: str = setting("", help="of one more bridge/train.py --init", metavar="FLAGS", group="budget")
    evaluate_flags: str = setting("", help="of bridge/evaluate.py", metavar="FLAGS", group="budget")
    probes: tuple[str, ...] = setting(
        (),
        help=f"of pretrained encoders: {', '.join(PLACES)} on the world, NAME=TASK:DATA on anything, or none",
        metavar="PROBE",
        default_text="zero-shot knn retrieval, without a world none",
        group="budget",
    )
    dry_run: bool = setting(False, help="list the cells and what they cost, run nothing", group="running")
    lanes: int | None = setting(
        None, help="cells side by side", least=1, default_text="a GPU or a core each", group="running"
    )
    only: tuple[str, ...] = setting((), help="only these cells, or `report`", metavar="CELL", group="running")
    slurm: str = setting("", help="start each cell as a job by this command", metavar="SBATCH", group="running")
    examples: int = setting(12, help="answers a benchmark on the page", least=0, group="running")


def settings_of(about: str, examples: str, arguments: Sequence[str] | None = None) -> StudySettings:
    """The settings of the command line, and those of its STUDY.yaml where it is silent.

    Raises: UserError if the file cannot be read, or names what there is not.
    """
    parser = make_parser(StudySettings, prog="scripts/study.py", about=about, examples=examples)
    values = given(parser, arguments)
    if values.get("study"):
        name_in_mistakes(parser, values["study"])
        values = {**given(parser, _typed(Path(values["study"]))), **values}
    else:
        for name in ("encoders", "llms", "probes", "only"):  # they take words until the next flag
            if files := [word for word in values.get(name, ()) if word.endswith((".yaml", ".yml"))]:
                raise UserError(f"--{name} {files[0]}: put {files[0]} first, before the flags")
    return build(StudySettings, values)


def name_in_mistakes(parser: ArgumentParser, source: str) -> None:
    """Let `parser` raise a UserError that names what its flags are for, or stand in: it would print its usage."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{source}: {message} (see --help)")

    parser.error = refuse


def split_flags(flag: str, text: str) -> tuple[str, ...]:
    """What `flag` was given, split as a shell does. Raises: UserError for a quote that is not closed."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None


def as_flags(settings: StudySettings) -> list[str]:
    """What must be typed for these settings, but for those of a single call."""
    flags: list[str] = []
    for declared in fields(settings):
        value = getattr(settings, declared.name)
        if value == declared.default or declared.name in OF_A_CALL:
            continue
        several = isinstance(value, tuple)
        flags += [flag(declared.name), *map(str, value)] if several else [f"{flag(declared.name)}={value}"]
    return flags


def _typed(path: Path) -> list[str]:
    """What the file says, as it would be typed."""
    content = _content(path)
    known = {flag(declared.name)[2:] for declared in fields(StudySettings)} - {"study"}
    flags: list[str] = []
    for key, value in content.items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise UserError(f"{path} names {key!r}, which is no setting: give of {', '.join(sorted(known))}")
        if isinstance(value, list):
            if odd := [each for each in value if isinstance(each, bool) or not isinstance(each, str | int | float)]:
                raise UserError(f"{path}: {key} holds {odd[0]!r}: give words or numbers, in quotes if YAML reads more")
            flags += [f"--{name}", *map(str, value)]
        elif isinstance(value, bool) and name == "dry-run":
            flags += [f"--{name}"] if value else []
        elif isinstance(value, bool):
            raise UserError(f"{path}: {key} is a yes or no: give what --{name} takes, in quotes if it is a word")
        elif isinstance(value, str | int):
            flags.append(f"--{name}={value}")
        else:
            raise UserError(f"{path}: {key} is {value!r}: give what --{name} takes, or a list of it")
    return flags


def _content(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content, written = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file of a study's settings") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date like 2026-02-30
        raise UserError(f"{path} is no YAML: {one_line(error, 200)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no `name: value` lines: see scripts/study.py --help")
    names = [str(key.value).replace("_", "-") for key, _ in written.value]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} says {twice[0]} twice: leave one")
    return content
