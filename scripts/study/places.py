"""Whether the data, encoders and language models of a study are there: said before the first of hours of pretraining.

Each is asked for by the code that will open it. Of the hub small files are fetched, no data and no weights.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from bridge.data import hub, official
from bridge.data.conversation_files import check_conversations
from pretrain.data.source import check_captions
from pretrain.probes.settings import LABELLED
from study.cells import Cell, chosen_probes
from study.checks import read_flags
from study.settings import StudySettings
from vlm.encoders.by_name import check_encoder
from vlm.encoders.naming import parse_encoder
from vlm.errors import UserError
from vlm.hub import check_repository, is_hub_id
from vlm.llms.load import check_llm


def check_places(settings: StudySettings, planned: Iterable[Cell]) -> None:
    """Raises: UserError if a command of these cells names what is not there, and what no cell makes."""
    looked_at = set()
    cells = list(planned)
    if any(cell.kind == "probes" for cell in cells):
        for probe in chosen_probes(settings):
            if not _is_made(settings, probe.data):
                _look(f"--probes {probe.name}", partial(_probe_data, probe.task), probe.data)
    for cell in cells:
        for command in cell.commands:
            flags = read_flags(command)
            for name, check in CHECKS.get(command[0], {}).items():
                value = flags.get(name)
                if value and (name, value) not in looked_at and not _is_made(settings, value):
                    looked_at.add((name, value))
                    _look(f"--{TYPED.get(name, name)}", check, value)


def _is_made(settings: StudySettings, value: str) -> bool:
    """Whether it is of the study itself: a pretrained encoder, or the world, which may not be drawn yet."""
    place = Path(parse_encoder(value).place)  # what the study makes has its whole path
    return place.is_absolute() and any(
        place.is_relative_to(Path(root).absolute()) for root in (settings.out, settings.world)
    )


def _look(flag: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None


def _probe_data(task: str, value: str) -> None:
    """Captions and labelled images may be of the hub; what other tasks read is a folder."""
    if task == "retrieval":
        check_captions(value)
    elif task in LABELLED and is_hub_id(value) and not Path(value).exists():
        check_repository(value, "dataset", "give the path of a folder")
    elif not Path(value).is_dir():
        raise UserError(f"{value} is no folder: give what {task} reads (pretrain/probe.py --help)")


def _benchmark(title: str, value: str) -> None:
    if is_hub_id(value) and not Path(value).is_dir():
        check_repository(value, "dataset", "give the path of a folder")
    elif hub.find_root(value, []) is None:  # no tables
        official.folder_of(value, title)


_BENCHMARKS = {
    "gqa": lambda value: _benchmark("GQA", value),
    "vqav2": lambda value: _benchmark("VQAv2", value),
    "pope": lambda value: _benchmark("POPE", value),
}
CHECKS = {  # of each command, by flag
    "pretrain/run.py": {"data": check_captions, "init": check_encoder},
    "bridge/train.py": {
        **_BENCHMARKS,
        "conversations": check_conversations,
        "encoder": check_encoder,
        "llm": check_llm,
    },
    "bridge/evaluate.py": _BENCHMARKS,
}
TYPED = {"data": "captions", "encoder": "encoders", "llm": "llms"}  # a command's flag -> the study's
