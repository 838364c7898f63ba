"""What can be said of a study before anything runs: after hours of pretraining it would be too late."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from bridge.config import BridgeConfig
from bridge.evaluation.settings import EvaluateConfig
from pretrain.config import PretrainConfig, from_preset
from study.cells import Cell, uses_world
from study.settings import StudySettings
from study.summary import references
from vlm.errors import UserError
from vlm.run.settings import build, given, make_parser

COMMANDS = {"pretrain/run.py": PretrainConfig, "bridge/train.py": BridgeConfig, "bridge/evaluate.py": EvaluateConfig}


def check(settings: StudySettings, planned: Mapping[str, Cell]) -> None:
    """Raises: UserError if settings contradict each other, or a command would refuse its flags."""
    names = Counter(Path(llm).name for llm in settings.llms)
    if clash := [name for name, count in names.items() if count > 1]:
        raise UserError(f"--llms: two are named {clash[0]!r} in the table: rename a folder, or make a link to it")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise UserError(f"--seeds {' '.join(map(str, settings.seeds))}: give each once")
    if not uses_world(settings):
        _check_own_data(settings)
    references(settings)
    for cell in planned.values():
        for command in cell.commands:
            read_flags(command)


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
    parser = make_parser(config, prog=command[0], about="", examples="")

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{command[0]}: {message} (see its --help)")

    parser.error = refuse  # argparse would print a usage text and exit
    try:
        values = given(parser, command[1:])
        if config is PretrainConfig:
            changes = {name: value for name, value in values.items() if name != "preset"}
            from_preset(values.get("preset", PretrainConfig.preset), **changes)
        else:
            build(config, values)
    except UserError as error:
        raise UserError(f"a cell's flags are refused: {error}") from None
    return values
