"""What can be said of a study before anything runs: after hours of pretraining it would be too late."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.config import BridgeConfig
from bridge.evaluation.settings import EvaluateConfig
from pretrain.config import PretrainConfig, from_preset
from study.cells import Cell, encoders, uses_world
from study.settings import StudySettings, name_in_mistakes, split_flags
from study.summary import references
from vlm.errors import UserError
from vlm.run.settings import build, given, make_parser

# What the study itself says to each command, or what would make a row something else than its name says.
OURS = {
    "pretrain/run.py": {"data", "out", "objective", "seed", "branch", "plan"},
    "bridge/train.py": {"gqa", "vqav2", "llm", "encoder", "init", "out", "seed", "plan"},
    "bridge/evaluate.py": {
        "folder",
        "gqa",
        "vqav2",
        "pope",
        "out",
        "limit_images",
        "blind",
        "oracle",
        "shuffle_images",
    },
}
COMMANDS = {"pretrain/run.py": PretrainConfig, "bridge/train.py": BridgeConfig, "bridge/evaluate.py": EvaluateConfig}


def check(settings: StudySettings, planned: Mapping[str, Cell]) -> None:
    """Raises: UserError if settings contradict each other, or a command would refuse its flags."""
    if not uses_world(settings):
        _check_own_data(settings)
    references(settings)
    for cell in planned.values():
        for command in cell.commands:
            read_flags(command)
    _check_typed(settings)


def _check_typed(settings: StudySettings) -> None:
    """Raises: UserError if flags for a command say what the study says: a row would not be what its name tells."""
    typed = [
        ("pretrain/run.py", "--pretrain-flags", split_flags("--pretrain-flags", settings.pretrain_flags)),
        ("bridge/train.py", "--bridge-flags", split_flags("--bridge-flags", settings.bridge_flags)),
        ("bridge/train.py", "--second-stage", split_flags("--second-stage", settings.second_stage)),
        ("bridge/evaluate.py", "--evaluate-flags", ("VLM", *split_flags("--evaluate-flags", settings.evaluate_flags))),
    ]
    typed += [("pretrain/run.py", f"--encoders {name}", each.flags) for name, each in encoders(settings).items()]
    for command, place, flags in typed:
        if twice := sorted(OURS[command] & _read(command, flags).keys() - {"folder"}):
            raise UserError(
                f"{place}: --{twice[0].replace('_', '-')} is nothing that a study passes on: it says that itself, or a "
                "row would be something else than its name says; leave it out (see scripts/study.py --help)"
            )


def _check_own_data(settings: StudySettings) -> None:
    """Data of one's own leave no place for the embedded world's settings, and POPE has no questions to train on."""
    if settings.split != StudySettings.split:
        raise UserError(
            f"--split {settings.split} is of the embedded world: choose splits of your own data by "
            '--evaluate-flags "--gqa-split val --vqav2-split val2014"'
        )
    if Path(settings.world).resolve() != Path(StudySettings.world).resolve():
        raise UserError(f"--world {settings.world} and data of your own: give one of the two")
    if not (settings.gqa or settings.vqav2 or "--conversations" in settings.bridge_flags):
        raise UserError("--pope alone has nothing to train on: give --gqa or --vqav2 as well")


def read_flags(command: tuple[str, ...]) -> Mapping[str, Any]:
    """The flags of a command by name, read as it will itself, but for what only its data can tell.

    {} if it is none of `COMMANDS`. Raises: UserError if it would refuse them.
    """
    config = COMMANDS.get(command[0])
    if config is None:
        return {}
    try:
        values = _read(command[0], command[1:])
        if config is PretrainConfig:
            changes = {name: value for name, value in values.items() if name != "preset"}
            from_preset(values.get("preset", PretrainConfig.preset), **changes)
        else:
            build(config, values)
    except UserError as error:
        raise UserError(f"a cell's flags are refused: {error}") from None
    return values


def _read(command: str, flags: Sequence[str]) -> Mapping[str, Any]:
    """What flags say, by name. Raises: UserError if the command has no such flags."""
    parser = make_parser(COMMANDS[command], prog=command, about="", examples="")
    name_in_mistakes(parser, command)
    return given(parser, flags)
