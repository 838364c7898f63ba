"""What may differ when a run goes on: the settings that a checkpoint was written with, beside those of now."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.run.settings import known_of

FOREIGN = 5  # settings that one of two runs does not know at all; more are no change of one command's settings


@dataclass(frozen=True)
class Changes:
    """Which settings may differ from those that a checkpoint was written with.

    allowed: by --allow-change. fixed: never, since the checkpoint would not fit. harmless: (step, old, new) -> names of
    settings that may always change at that step, since what the run has done would have been the same. hints: what
    else a user may do who changed a setting.
    """

    allowed: tuple[str, ...] = ()
    fixed: frozenset[str] = frozenset()
    harmless: Callable[[int, dict, dict], Collection[str]] = lambda step, old, new: ()
    hints: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: Any, aliases: Mapping[str, str] | None = None, fixed: Collection[str] = (), **more: Any
    ) -> "Changes":
        """What `config.allow_change` allows. aliases: a setting -> the name of its content's digest in a manifest.

        fixed: names in a manifest that are no settings and may not change.
        Raises: UserError if a name is no setting, or a fixed one.
        """
        declared = {field.name: known_of(field) for field in fields(config)}
        never = {name for name, known in declared.items() if known.fixed} | set(fixed)
        names, aliases = [], aliases or {}
        for given_name in config.allow_change:
            name = given_name.replace("-", "_")
            if name not in declared and name not in aliases.values():
                raise UserError(f"--allow-change {given_name}: there is no such setting, see --help")
            if name in never or aliases.get(name) in never:
                raise UserError(f"--allow-change {given_name}: a checkpoint does not fit another {name}")
            names += [name, aliases.get(name, name)]
        return cls(tuple(names), frozenset(never), **more)


NO_CHANGES = Changes()


def refuse_changes(run: Path, old: dict, new: dict, changes: Changes = NO_CHANGES, step: int = 0) -> list[str]:
    """Compare the settings that a checkpoint of `step` was written with, `old`, with the `new` ones.

    Returns: those that differ and may, each as "lr 0.1 -> 0.2".
    Raises: UserError, naming both values, if any other one differs.
    """
    names = sorted(name for name in old.keys() | new.keys() if not _same(old.get(name), new.get(name)))
    foreign = [name for name in names if (old.get(name) is None) != (new.get(name) is None)]
    if len(foreign) > FOREIGN:
        raise UserError(f"{run} holds a run of another command or version, without {foreign[0]}: give another --out")
    may = {*changes.allowed, *changes.harmless(step, old, new)}
    told = {name: f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in names}
    if not (refused := [name for name in names if name not in may]):
        return list(told.values())
    listed = ", ".join(told[name] for name in refused)
    words = f"{run} was started with other settings ({listed}): restore them"
    if any(name in changes.fixed for name in refused):
        raise UserError(f"{words} or give another --out")
    hints = "".join(f" ({changes.hints[name]})" for name in refused if name in changes.hints)
    raise UserError(f"{words}, go on with --allow-change {' '.join(refused)}, or give another --out{hints}")


def _same(old: Any, new: Any) -> bool:
    """Whether two values of a setting are one. A switch that one of two versions does not know was off in its runs."""
    return old == new or {repr(old), repr(new)} == {"None", "False"}
