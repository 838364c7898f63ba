"""Whether the data, encoders and language models of a study are there: said before the first of hours of pretraining.

Each is asked for by the code that will open it. Of the hub small files are fetched, no data and no weights.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bridge.data import hub, official
from bridge.data.conversation_files import check_conversations
from pretrain.data.source import check_captions
from study.cells import Cell
from study.checks import read_flags
from study.settings import StudySettings
from vlm.encoders.by_name import check_encoder
from vlm.errors import UserError
from vlm.hub import check_repository, is_hub_id
from vlm.llms.load import check_llm


def check_places(settings: StudySettings, planned: Iterable[Cell]) -> None:
    """Raises: UserError if a command of these cells names what is not there, and what no cell makes."""
    looked_at = set()
    for cell in planned:
        for command in cell.commands:
            for name, value in _named(read_flags(command)):
                if (name, value) not in looked_at and not _is_made(settings, value):
                    looked_at.add((name, value))
                    _check(name, value)


def _named(flags: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value) for name in CHECKS if (value := flags.get(name))]


def _is_made(settings: StudySettings, value: str) -> bool:
    """Whether it is of the study itself: a pretrained encoder, or the world, which may not be drawn yet."""
    place = Path(value.removeprefix("random:")).absolute()
    return any(place.is_relative_to(Path(root).absolute()) for root in (settings.out, settings.world))


def _check(name: str, value: str) -> None:
    try:
        CHECKS[name](value)
    except UserError as error:
        raise UserError(f"--{TYPED.get(name, name)}: {error}") from None


def _benchmark(title: str, value: str) -> None:
    if is_hub_id(value) and not Path(value).is_dir():
        check_repository(value, "dataset", "give the path of a folder")
    elif hub.find_root(value, []) is None:  # no tables
        official.folder_of(value, title)


CHECKS = {
    "data": check_captions,
    "gqa": lambda value: _benchmark("GQA", value),
    "vqav2": lambda value: _benchmark("VQAv2", value),
    "pope": lambda value: _benchmark("POPE", value),
    "conversations": check_conversations,
    "encoder": check_encoder,
    "llm": check_llm,
}
TYPED = {"data": "captions", "encoder": "encoders", "llm": "llms"}  # a command's flag -> the study's
