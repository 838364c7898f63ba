"""The `vlm` command and its sub-commands."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from vlm.apps.settings import ChatSettings, DoctorSettings, ExportSettings, FeaturesSettings, WebSettings
from vlm.apps.status import Status
from vlm.errors import UserError, run_command
from vlm.run.settings import PARSING, add_settings, build, given
from vlm.run.signals import Stopped, last_words

EXAMPLES = """\
examples:
  vlm chat runs/bridge-qwen/vlm --image photo.jpg
  vlm web runs/bridge-qwen/vlm
  vlm features runs/pretrain/encoder photo.jpg
  vlm export runs/bridge-qwen/vlm my-vlm
  vlm doctor runs/bridge-qwen/vlm
more: vlm COMMAND --help"""

CHAT = """\
Ask questions about a picture: one with --question, else as many as you like.
Questions may also come from a pipe, one a line. Then each has exactly one line of output, its
answer or `error: ...`, and the exit code is 1 if any line failed."""
CHAT_EXAMPLES = """\
examples:
  vlm chat runs/bridge-qwen/vlm --image photo.jpg --question "What colour is the car?"
  vlm chat runs/bridge-qwen/vlm --image photo.jpg
  vlm chat runs/bridge-qwen/vlm --image before.jpg --image after.jpg
  vlm chat runs/bridge-qwen/vlm --image photo.jpg < questions.txt > answers.txt
  vlm chat runs/bridge-qwen/vlm --image photo.jpg --json --short < questions.txt
  vlm chat runs/bridge-qwen/vlm --image photo.jpg --temperature 0.7 --top-p 0.9 --stats"""

FEATURES = """\
Draw what a model's patch tokens hold, one picture with a column for each image. Under the image as
the model sees it: the first three principal components of the tokens as colours (equal colours are
similar patches, also across images), the cosine of each token with a chosen one, and, for a VLM that
is asked a question, which patches the tokens of its answer attend to."""
FEATURES_EXAMPLES = """\
examples:
  vlm features runs/pretrain/encoder cat.jpg dog.jpg --out features.png
  vlm features runs/pretrain/encoder cat.jpg --patch 3,5
  vlm features runs/bridge-qwen/vlm cat.jpg dog.jpg --question "What is on the table?"
  vlm features hf:facebook/dinov2-small cat.jpg --image-size 448"""

WEB = """\
Serve a page on this machine: drop or paste a picture, ask, and read the answer as it is made. The page
also shows the picture as the model sees it, and its patch tokens in colours. Needs pip install -e '.[web]'."""
WEB_EXAMPLES = """\
examples:
  vlm web runs/bridge-qwen/vlm
  vlm web runs/bridge-qwen/vlm --port 8080 --world runs/world
  ssh -L 7860:127.0.0.1:7860 MACHINE vlm web runs/bridge-qwen/vlm     # from another machine, closed to all others
  vlm web runs/bridge-qwen/vlm --host 0.0.0.0                         # open to all who can reach this machine"""

EXPORT = """\
Write a VLM or an encoder in the form of another runtime. What was written is loaded again by that
runtime and compared with what it came from; only then it appears as OUT, and is pushed.
  hf        a VLM: a clean stock LLaVA folder with its model card; an encoder: a stock ViTModel or the like
  vipllava  a VLM for transformers older than 5.18
  gguf      a VLM for llama.cpp: two files, the language model and the "mmproj", and how to run them
  timm      an encoder: a folder for timm.create_model"""
EXPORT_EXAMPLES = """\
examples:
  vlm export runs/bridge-qwen/vlm my-vlm
  vlm export runs/bridge-qwen/vlm my-vlm --results runs/bridge-qwen/eval --push me/my-vlm
  vlm export runs/bridge-qwen/vlm my-vlm --format vipllava
  vlm export runs/bridge-qwen/vlm my-vlm-gguf --format gguf --quantise Q8_0
  vlm export runs/pretrain/encoder my-vit --format timm"""

DOCTOR = """\
Check one thing, a line for each finding: OK, warn or FAIL, with what to do.
Without an argument the environment: versions, devices, shared memory, optional extras. For a VLM, an
encoder or a run folder: whether it is whole, gives the features it was saved with, and looks at the
image. For data: what kind it is, how much, and whether its images can be read.
`vlm doctor labels DIR` shows a conversation as training sees it, with the supervised tokens marked.
The exit code is 0 if nothing failed, 1 if something did, and 2 if there is no such thing."""
DOCTOR_EXAMPLES = """\
examples:
  vlm doctor
  vlm doctor runs/bridge-qwen/vlm
  vlm doctor runs/bridge-qwen/vlm --image photo.jpg --image other.jpg
  vlm doctor runs/pretrain
  vlm doctor data/captions --json
  vlm doctor labels runs/bridge-qwen/vlm --question "Is it red?" --answer no"""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from importlib.metadata import version  # takes a moment: only if it is asked for

        print(f"levlm {version('levlm')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    about = "Talk to a trained VLM, see what it sees, export it, and check everything around it."
    parser = argparse.ArgumentParser(prog="vlm", description=about, epilog=EXAMPLES, **PARSING)
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, settings, line, description, examples in (
        ("chat", ChatSettings, "ask questions about a picture", CHAT, CHAT_EXAMPLES),
        ("web", WebSettings, "a page to ask questions on", WEB, WEB_EXAMPLES),
        ("features", FeaturesSettings, "draw what a model's patch tokens hold", FEATURES, FEATURES_EXAMPLES),
        ("export", ExportSettings, "write a VLM or an encoder for another runtime", EXPORT, EXPORT_EXAMPLES),
        ("doctor", DoctorSettings, "check the environment, a model, a run or data", DOCTOR, DOCTOR_EXAMPLES),
    ):
        command = commands.add_parser(name, help=line, description=description, epilog=examples, **PARSING)
        add_settings(command, settings)
    return parser


def main() -> None:
    """The console script `vlm`."""
    run_command(_run)


def _run() -> None:
    values = given(_parser())
    commands = {"chat": _chat, "web": _web, "features": _features, "export": _export, "doctor": _doctor}
    commands[values.pop("command")](values)


def _chat(values: dict[str, Any]) -> None:
    asked = build(ChatSettings, values)
    with Status("starting"):
        _quiet(offline=Path(asked.folder).exists())
        from vlm.apps.chat import chat

    signal.signal(signal.SIGINT, signal.default_int_handler)  # each Ctrl-C has its meaning there, not only the first
    try:
        code = chat(asked)
    except (KeyboardInterrupt, Stopped) as stop:
        code = last_words(stop)
        sys.stdout.flush()
        os._exit(code)  # at an ordinary end torch may abort, if the thread that answers is just being stopped
    if code:
        sys.exit(code)


def _features(values: dict[str, Any]) -> None:
    asked = build(FeaturesSettings, values)
    with Status("starting"):
        _quiet(offline=False)  # an encoder may be named by its hub id
        from vlm.apps.features import features

    features(asked)


def _web(values: dict[str, Any]) -> None:
    asked = build(WebSettings, values)
    with Status("starting"):
        _quiet(offline=Path(asked.folder).exists())
        from vlm.apps.web import serve

    serve(asked)


def _export(values: dict[str, Any]) -> None:
    asked = build(ExportSettings, values)
    with Status("starting"):
        _quiet(offline=Path(asked.folder).exists() and asked.push is None)
        from vlm.apps.export import export

    export(asked)


def _doctor(values: dict[str, Any]) -> None:
    asked = build(DoctorSettings, values)
    if (len(asked.what) == 2 and asked.what[0] != "labels") or len(asked.what) > 2:
        raise UserError(f"doctor takes nothing, DIR or labels DIR, not {' '.join(asked.what)}")
    if asked.what == ("labels",):
        raise UserError("doctor labels needs a model's folder: give labels DIR, or ./labels for a folder of that name")
    with Status("starting"):
        _quiet()
        from vlm.apps.doctor.command import doctor

    if code := doctor(asked):
        sys.exit(code)


def _quiet(offline: bool = True) -> None:
    """Import transformers, which takes seconds, and keep it silent; off the network if all is read from disk."""
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
