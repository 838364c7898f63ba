"""The `vlm` command: `vlm chat` and `vlm doctor`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm.errors import UserError, run_command
from vlm.run.settings import add_settings, build, given, setting

EXAMPLES = """\
examples:
  vlm chat runs/bridge/vlm --image photo.jpg
  vlm doctor runs/bridge/vlm
more: vlm COMMAND --help"""

CHAT = """\
Ask questions about a picture: one with --question, else as many as you like.
Questions may also come from a pipe, one a line."""
CHAT_EXAMPLES = """\
examples:
  vlm chat runs/bridge/vlm --image photo.jpg --question "What colour is the car?"
  vlm chat runs/bridge/vlm --image photo.jpg
  vlm chat runs/bridge/vlm --image photo.jpg < questions.txt"""

DOCTOR = """\
`vlm doctor DIR` loads a VLM folder and checks that its vision tower still gives the encoder's
features, that its chat template can be trained on, and that generation stops where a turn ends.
`vlm doctor labels DIR` shows a conversation as training sees it, with the supervised tokens marked."""
DOCTOR_EXAMPLES = """\
examples:
  vlm doctor runs/bridge/vlm
  vlm doctor labels runs/bridge/vlm --question "Is it red?" --answer no"""


@dataclass(frozen=True)
class ChatSettings:
    """What `vlm chat` is given."""

    folder: str = setting(help="a VLM folder, such as RUN/vlm", positional=True, metavar="DIR")
    image: str | None = setting(None, help="the picture: JPEG, PNG, WEBP or GIF", metavar="FILE")
    question: str | None = setting(None, help="ask this, print the answer alone, and end", metavar="TEXT")
    max_new_tokens: int = setting(128, help="longest answer", metavar="N", least=1)


@dataclass(frozen=True)
class DoctorSettings:
    """What `vlm doctor` is given."""

    what: tuple[str, ...] = setting(help="a VLM folder, such as RUN/vlm", positional=True, metavar="[labels] DIR")
    question: str = setting("What color is the car?", help="for labels", metavar="TEXT")
    answer: str = setting("red", help="for labels", metavar="TEXT")


class _Version(argparse.Action):
    """`--version`: looked up only if it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from importlib.metadata import version

        print(f"levlm {version('levlm')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    raw: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "Talk to a trained VLM, and check one."
    parser = argparse.ArgumentParser(prog="vlm", description=about, epilog=EXAMPLES, **raw)
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, settings, line, description, examples in (
        ("chat", ChatSettings, "ask questions about a picture", CHAT, CHAT_EXAMPLES),
        ("doctor", DoctorSettings, "check a VLM folder; show what its training is given", DOCTOR, DOCTOR_EXAMPLES),
    ):
        command = commands.add_parser(name, help=line, description=description, epilog=examples, **raw)
        add_settings(command, settings)
    return parser


def main() -> None:
    """The console script `vlm`."""
    run_command(_run)


def _run() -> None:
    values = given(_parser())
    command = values.pop("command")
    # The settings are judged first: what follows imports torch, which takes seconds.
    if command == "chat":
        _chat(build(ChatSettings, values))
    else:
        _doctor(build(DoctorSettings, values))


def _chat(settings: ChatSettings) -> None:
    _quiet()
    from vlm.apps.chat import chat

    chat(settings.folder, settings.image, settings.question, settings.max_new_tokens)


def _doctor(settings: DoctorSettings) -> None:
    folder, labels = _folder_and_labels(settings.what)
    _quiet()
    from vlm.apps.doctor import check, show_labels

    if labels:
        show_labels(folder, settings.question, settings.answer)
    else:
        check(folder)


def _folder_and_labels(what: Sequence[str]) -> tuple[str, bool]:
    """`DIR` or `labels DIR` -> the folder, and whether its labels are asked for."""
    if len(what) == 1:
        return what[0], False
    if len(what) == 2 and what[0] == "labels":
        return what[1], True
    raise UserError(f"doctor takes DIR or labels DIR, not {' '.join(what)}")


def _quiet() -> None:
    """Keep transformers from the network, since everything is read from disk, and from talking between the answers."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
