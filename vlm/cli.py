"""The `vlm` command: `vlm chat`, `vlm export` and `vlm doctor`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from vlm.apps.settings import ChatSettings, DoctorSettings, ExportSettings
from vlm.apps.status import Status
from vlm.errors import UserError, run_command
from vlm.run.settings import PARSING, add_settings, build, given

EXAMPLES = """\
examples:
  vlm chat runs/bridge/vlm --image photo.jpg
  vlm export runs/bridge/vlm my-vlm
  vlm doctor runs/bridge/vlm
more: vlm COMMAND --help"""

CHAT = """\
Ask questions about a picture: one with --question, else as many as you like.
Questions may also come from a pipe, one a line. Then each has exactly one line of output, its
answer or `error: ...`, and the exit code is 1 if any line failed."""
CHAT_EXAMPLES = """\
examples:
  vlm chat runs/bridge/vlm --image photo.jpg --question "What colour is the car?"
  vlm chat runs/bridge/vlm --image photo.jpg
  vlm chat runs/bridge/vlm --image before.jpg --image after.jpg
  vlm chat runs/bridge/vlm --image photo.jpg < questions.txt > answers.txt
  vlm chat runs/bridge/vlm --image photo.jpg --json --short < questions.txt
  vlm chat runs/bridge/vlm --image photo.jpg --temperature 0.7 --top-p 0.9 --stats"""

EXPORT = """\
Write a VLM or an encoder in the form of another runtime. What was written is loaded again by that
runtime and compared with what it came from; only then it appears as OUT, and is pushed.
  hf        a VLM: a clean stock LLaVA folder with its model card; an encoder: a stock ViTModel
  vipllava  a VLM for transformers older than 5.18
  timm      an encoder: a folder for timm.create_model"""
EXPORT_EXAMPLES = """\
examples:
  vlm export runs/bridge/vlm my-vlm
  vlm export runs/bridge/vlm my-vlm --results runs/bridge/eval --push me/my-vlm
  vlm export runs/bridge/vlm my-vlm --format vipllava
  vlm export runs/pretrain/encoder my-vit --format timm"""

DOCTOR = """\
`vlm doctor DIR` loads a VLM folder and checks that its vision tower still gives the encoder's
features, that its chat template can be trained on, and that generation stops where a turn ends.
`vlm doctor labels DIR` shows a conversation as training sees it, with the supervised tokens marked."""
DOCTOR_EXAMPLES = """\
examples:
  vlm doctor runs/bridge/vlm
  vlm doctor labels runs/bridge/vlm --question "Is it red?" --answer no"""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from importlib.metadata import version  # takes a moment: only if it is asked for

        print(f"levlm {version('levlm')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    about = "Talk to a trained VLM, export it, and check one."
    parser = argparse.ArgumentParser(prog="vlm", description=about, epilog=EXAMPLES, **PARSING)
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, settings, line, description, examples in (
        ("chat", ChatSettings, "ask questions about a picture", CHAT, CHAT_EXAMPLES),
        (
            "export",
            ExportSettings,
            "write a VLM or an encoder for another runtime",
            EXPORT,
            EXPORT_EXAMPLES,
        ),
        ("doctor", DoctorSettings, "check a VLM folder; show what its training is given", DOCTOR, DOCTOR_EXAMPLES),
    ):
        command = commands.add_parser(name, help=line, description=description, epilog=examples, **PARSING)
        add_settings(command, settings)
    return parser


def main() -> None:
    """The console script `vlm`."""
    run_command(_run)


def _run() -> None:
    values = given(_parser())
    {"chat": _chat, "export": _export, "doctor": _doctor}[values.pop("command")](values)


def _chat(values: dict[str, Any]) -> None:
    asked = build(ChatSettings, values)
    with Status("starting"):
        _quiet(asked.folder)
        from vlm.apps.chat import chat

    if code := chat(asked):
        sys.exit(code)


def _export(values: dict[str, Any]) -> None:
    asked = build(ExportSettings, values)
    with Status("starting"):
        _quiet(asked.folder, online=asked.push is not None)
        from vlm.apps.export import export

    export(asked)


def _doctor(values: dict[str, Any]) -> None:
    asked = build(DoctorSettings, values)
    *labels, folder = asked.what
    if labels not in ([], ["labels"]):
        raise UserError(f"doctor takes DIR or labels DIR, not {' '.join(asked.what)}")
    _quiet(folder)
    from vlm.apps.doctor import check, show_labels

    if labels:
        show_labels(folder, asked.question, asked.answer)
    else:
        check(folder)


def _quiet(folder: str, online: bool = False) -> None:
    """Import transformers, which takes seconds; keep it off the network if all is read from `folder`, and silent."""
    if Path(folder).exists() and not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
