"""One way to declare a setting: a dataclass field makes the flag, its default, its check and its line in `--help`.

    @dataclass(frozen=True)
    class ProbeConfig:
        encoder: str = setting(help="RUN/encoder", positional=True)
        task: str = setting(help="what is measured", choices=("knn", "linear"))
        pool: int = setting(256, help="captions to choose from", least=2)

    config = parse(ProbeConfig, prog="pretrain/probe.py", about="Measure a frozen encoder.", examples=EXAMPLES)

The type and the default decide what is typed:

    steps: int = setting(help=...)                     --steps 9, which must be given
    steps: int | None = setting(None, help=...)        --steps 9, or nothing
    plan: bool = setting(False, help=...)              --plan
    cache: bool = setting(True, help=...)              --no-cache
    compile: bool | None = setting(None, help=...)     --compile or --no-compile; without them it is found later
    sizes: tuple[int, ...] = setting((), help=...)     --sizes 1 2; with repeated=True, --sizes 1 --sizes 2

Nothing here imports torch: `--help` answers at once.
"""

import argparse
import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from vlm.errors import UserError

Config = TypeVar("Config")
YEAR = 365 * 24 * 60  # minutes
# How every command parses: the line breaks of its examples stay, and a flag is not guessed from its beginning.
PARSING: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}


@dataclass(frozen=True)
class Setting:
    """What a field knows beside its name, type and default."""

    help: str
    choices: Sequence = ()
    # Bounds of a number, or of each of several. Infinity and NaN are never in bounds.
    least: float | None = None
    above: float | None = None
    most: float | None = None
    metavar: str | None = None
    group: str | None = None  # the heading in --help
    positional: bool = False
    repeated: bool = False  # each value has its flag: --data a --data b, in place of --data a b
    joined: str = ""  # of a string: what stands between its values if several are typed, --data a=1 b=1 or twice
    free: bool = False  # a run may go on with another value
    fixed: bool = False  # never with another value, even by --allow-change: a checkpoint does not fit
    by_content: bool = False  # names files: on resume their content is compared, not how they are spelt
    default_text: str | None = None  # what --help shows if the default is found later
    also: tuple[str, ...] = ()  # other spellings of the flag


def setting(default: Any = MISSING, *, help: str, **more: Any) -> Any:
    """Declare one field of a settings dataclass; `more` are the other fields of `Setting`, by name."""
    return field(default=default, metadata={"setting": Setting(help, **more)})


def seed_setting(default: Any = 0, *, help: str, **more: Any) -> Any:
    """Declare a seed, or several: a number that numpy and torch take. torch's are of 64 bits."""
    return setting(default, help=help, least=0, most=2**64 - 1, **more)


def resume_setting() -> Any:
    """Declare `--resume`, which both stages have."""
    return setting(
        "auto",
        help="auto continues a run found in --out; required fails without one; never fails with anything of one",
        choices=("auto", "required", "never"),
        free=True,
    )


def timeout_setting(
    default: float = 120.0, help: str = "minutes that a process waits for the others", **more: Any
) -> Any:
    """Declare `--timeout`, which every command has that runs on several processes.

    Rank 0 alone saves, merges and hashes while the others wait, which may take long with a large model on slow storage.
    It does not delay the end of a run one of whose ranks has died: gloo sees the closed connection at once, and with
    NCCL the launcher ends the others.
    """
    return setting(default, help=help, above=0, most=YEAR, free=True, **more)


def allow_change_setting() -> Any:
    """Declare `--allow-change`, which both stages have."""
    return setting(
        (),
        help="settings that a run found in --out may go on with although they were others, such as: lr batch_size",
        metavar="KEY",
        free=True,
    )


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
    """Raise `UserError` if a field is outside its choices or bounds, naming flag, value and what is needed."""
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
        (isinstance(value, int) or math.isfinite(value))
        and (known.least is None or value >= known.least)
        and (known.above is None or value > known.above)
        and (known.most is None or value <= known.most)
    )


def _bounds(known: Setting) -> str:
    """The bounds in words: "a number above 0", "1 or more", "0 to 1"."""
    least, above, most = ("" if bound is None else str(bound) for bound in (known.least, known.above, known.most))
    if least and most:
        return f"{least} to {most}"
    if least:
        return f"{least} or more"
    if above:
        return f"a number above {above}" + (f", {most} at most" if most else "")
    return f"{most} or less" if most else "a finite number"


def make_parser(config: type, *, prog: str, about: str, examples: str) -> argparse.ArgumentParser:
    """A parser with one argument a field; only what was given is in its result, so that presets can fill the rest."""
    parser = argparse.ArgumentParser(prog=prog, description=about, epilog=examples, **PARSING)
    add_settings(parser, config)
    return parser


def add_settings(parser: argparse.ArgumentParser, config: type) -> None:
    """Add the fields of `config` to `parser`, each group under its own heading."""
    kinds = get_type_hints(config)
    groups: dict[str, Any] = {}
    for declared in fields(config):
        known, target = known_of(declared), parser
        if known.group:
            if known.group not in groups:
                groups[known.group] = parser.add_argument_group(known.group)
            target = groups[known.group]
        plain, several = _plain(kinds[declared.name])
        has_default = declared.default is not MISSING
        options: dict[str, Any] = {"help": _help(declared, known), "default": argparse.SUPPRESS}
        if known.metavar:
            options["metavar"] = known.metavar
        if plain is bool:
            _add_switch(target, declared, options)
            continue
        options["type"] = _text if plain is str else plain
        if known.choices:
            options["choices"] = known.choices
        if known.joined:
            options |= {"action": _Join, "nargs": "+", "const": known.joined}
        elif several and known.repeated:
            options["action"] = "append"
        elif several:
            options["nargs"] = "*" if known.positional and has_default else "+"
        elif known.positional and has_default:
            options["nargs"] = "?"
        if known.positional:
            # Without a metavar argparse would show the choices in place of the name.
            options.setdefault("metavar", declared.name)
            target.add_argument(declared.name, **options)
        else:
            target.add_argument(flag(declared.name), *known.also, required=not has_default, **options)


def _text(value: str) -> str:
    """As it is given, but ~/NAME in the home folder: in quotes, and behind a =, a shell leaves the ~ as it is."""
    return os.path.expanduser(value)


def _add_switch(target: Any, declared: Field, options: dict[str, Any]) -> None:
    """`--NAME` for a field that is False unless it is given, `--no-NAME` for one that is True, both for one of None."""
    if declared.default is None:
        target.add_argument(flag(declared.name), action=argparse.BooleanOptionalAction, **options)
        return
    if not isinstance(declared.default, bool):
        raise TypeError(f"the field {declared.name} is a switch: its default must be True, False or None")
    if declared.default:
        target.add_argument(flag("no_" + declared.name), dest=declared.name, action="store_false", **options)
    else:
        target.add_argument(flag(declared.name), action="store_true", **options)


class _Join(argparse.Action):
    """Values given together, or by flags one after the other, become one string."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = [given] if (given := getattr(namespace, self.dest, None)) else []
        setattr(namespace, self.dest, str(self.const).join([*before, *values]))


def _plain(kind: Any) -> tuple[type, bool]:
    """int | None -> int; tuple[str, ...] -> str, and that it may come several times."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is tuple:
        return get_args(kind)[0], True
    return kind, False


def _help(declared: Field, known: Setting) -> str:
    """The help text with the default behind it; argparse reads % as its own."""
    text, default = known.help, declared.default
    if known.default_text is not None:
        text += f" [{known.default_text}]"
    elif default not in (MISSING, None, "", ()) and not isinstance(default, bool):
        text += f" [{' '.join(map(str, default)) if isinstance(default, tuple) else default}]"
    return text.replace("%", "%%")


def given(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings that the command line names, and only those."""
    found = vars(parser.parse_args(arguments))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A checked config from the settings that were given; defaults fill the rest. Raises as `check_bounds`."""
    made = config(**values)
    check_bounds(made)
    return made


def parse(
    config: type[Config], arguments: Sequence[str] | None = None, *, prog: str, about: str, examples: str
) -> Config:
    """Command line -> checked config; raises as `build`."""
    return build(config, given(make_parser(config, prog=prog, about=about, examples=examples), arguments))
