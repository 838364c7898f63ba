"""One way to declare a setting: a dataclass field makes the flag, its default, its check and its line in `--help`.

    @dataclass(frozen=True)
    class ProbeConfig:
        encoder: str = setting(help="RUN/encoder", positional=True)
        task: str = setting(help="what is measured", choices=("knn", "linear"))
        pool: int = setting(256, help="captions to choose from", least=2)

    config = parse(ProbeConfig, prog="pretrain/probe.py", about="Measure a frozen encoder.", examples=EXAMPLES)

A field without a default must be given. A field that is `False` becomes a switch, one that is `True` a switch
`--no-NAME`. A `tuple[int, ...]` takes several values, or one each time that the flag is given if it is `repeated`.
Nothing here imports torch: `--help` answers at once.
"""

import argparse
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from vlm.errors import UserError

Config = TypeVar("Config")
RESUME = ("auto", "required", "never")  # what --resume of either stage may be


@dataclass(frozen=True)
class Setting:
    """What a field knows beside its name, type and default; see `setting`."""

    help: str
    choices: tuple = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    metavar: str | None = None
    group: str | None = None
    positional: bool = False
    repeated: bool = False
    free: bool = False
    by_content: bool = False
    default_text: str | None = None


def setting(
    default: Any = MISSING,
    *,
    help: str,
    choices: Sequence = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    metavar: str | None = None,
    group: str | None = None,
    positional: bool = False,
    repeated: bool = False,
    free: bool = False,
    by_content: bool = False,
    default_text: str | None = None,
) -> Any:
    """Declare one field of a settings dataclass.

    least, above, most: bounds of a number; infinity and NaN are never in bounds. group: a heading in `--help`.
    free: a run may go on with another value. by_content: the field names files, whose content is compared on resume in
    place of the spelling. default_text: what `--help` shows when the default is found later.
    """
    known = Setting(
        help, tuple(choices), least, above, most, metavar, group, positional, repeated, free, by_content, default_text
    )
    return field(default=default, metadata={"setting": known})


def flag(name: str) -> str:
    """batch_size -> --batch-size"""
    return "--" + name.replace("_", "-")


def known_of(declared: Field) -> Setting:
    """What `setting` recorded of a field."""
    return declared.metadata["setting"]


def trajectory(config: Any) -> dict[str, Any]:
    """The settings that must be as they were when a run goes on: neither free nor compared by content."""
    kept = [declared for declared in fields(config) if not (known_of(declared).free or known_of(declared).by_content)]
    values = asdict(config)
    return {declared.name: values[declared.name] for declared in kept}


def check_bounds(config: Any) -> None:
    """Hold every field against its choices and bounds.

    Raises:
        UserError: naming the flag, what was given and what is needed.
    """
    for declared in fields(config):
        known, value = known_of(declared), getattr(config, declared.name)
        name = declared.name if known.positional else flag(declared.name)
        for single in value if isinstance(value, tuple) else (value,):
            if single is None:
                continue
            if known.choices and single not in known.choices:
                raise UserError(f"{name} {single}: give one of {', '.join(map(str, known.choices))}")
            if isinstance(single, (int, float)) and not isinstance(single, bool) and not _in_bounds(single, known):
                raise UserError(f"{name} {single}: give {_bounds(known)}")


def _in_bounds(value: float, known: Setting) -> bool:
    return (
        math.isfinite(value)
        and (known.least is None or value >= known.least)
        and (known.above is None or value > known.above)
        and (known.most is None or value <= known.most)
    )


def _bounds(known: Setting) -> str:
    """The bounds in words: "a number above 0", "1 or more", "0 to 1"."""
    if known.least is not None and known.most is not None:
        return f"{known.least:g} to {known.most:g}"
    if known.least is not None:
        return f"{known.least:g} or more"
    if known.above is not None:
        return f"a number above {known.above:g}" + (f", {known.most:g} at most" if known.most is not None else "")
    return "a finite number" if known.most is None else f"{known.most:g} or less"


def make_parser(config: type, *, prog: str, about: str, examples: str) -> argparse.ArgumentParser:
    """A parser with one argument a field; only what was given is in its result, so that presets can fill the rest."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_settings(parser, config)
    return parser


def add_settings(parser: argparse.ArgumentParser, config: type) -> None:
    """Add the fields of `config` to `parser`, each group under its own heading."""
    kinds = get_type_hints(config)
    groups: dict[str, Any] = {}
    for declared in fields(config):
        known = known_of(declared)
        target: Any = parser
        if known.group:
            target = groups.setdefault(known.group, None) or parser.add_argument_group(known.group)
            groups[known.group] = target
        name = declared.name if known.positional else flag(declared.name)
        options = _options(declared, known, kinds[declared.name])
        if declared.default is True:
            name = flag("no_" + declared.name)
        target.add_argument(name, **options)


def _options(declared: Field, known: Setting, kind: Any) -> dict[str, Any]:
    """The keyword arguments of `add_argument` for one field."""
    options: dict[str, Any] = {"help": _help(declared, known), "default": argparse.SUPPRESS}
    if isinstance(declared.default, bool):
        options["action"] = "store_false" if declared.default else "store_true"
        if declared.default:
            options["dest"] = declared.name
        return options
    plain, several = _plain(kind)
    options["type"] = plain
    if known.choices:
        options["choices"] = known.choices
    if known.metavar:
        options["metavar"] = known.metavar
    if known.positional:
        if declared.default is not MISSING:
            options["nargs"] = "*" if several else "?"
        elif several:
            options["nargs"] = "+"
        if known.choices and not known.metavar:
            options["metavar"] = declared.name
    else:
        options["required"] = declared.default is MISSING
        if several and known.repeated:
            options["action"] = "append"
        elif several:
            options["nargs"] = "+"
    return options


def _plain(kind: Any) -> tuple[type, bool]:
    """int | None -> int; tuple[str, ...] -> str, and that it may come several times."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is tuple:
        return get_args(kind)[0], True
    return kind, False


def _help(declared: Field, known: Setting) -> str:
    """The help text with the default behind it; argparse reads % as its own."""
    text = known.help.replace("%", "%%")
    default = declared.default
    if known.default_text is not None:
        return f"{text} [{known.default_text.replace('%', '%%')}]"
    if default in (MISSING, None, "", ()) or isinstance(default, bool):
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} [{shown}]"


def given(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings that the command line names, and only those."""
    found = vars(parser.parse_args(arguments))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A checked config from the settings that were given; defaults fill the rest."""
    made = config(**values)
    check_bounds(made)
    return made


def parse(
    config: type[Config], arguments: Sequence[str] | None = None, *, prog: str, about: str, examples: str
) -> Config:
    """Command line -> checked config.

    Raises:
        UserError: a value is out of its bounds.
    """
    return build(config, given(make_parser(config, prog=prog, about=about, examples=examples), arguments))
