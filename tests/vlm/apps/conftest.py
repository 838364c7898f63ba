"""Runs the `vlm` command in this process, and serves the page of `vlm web` from another."""

import io
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT
from tiny import pictures

from vlm import cli
from vlm.files import write_json


@pytest.fixture(scope="module")
def folder(saved):
    return str(saved / "qwen2")


@pytest.fixture
def picture_file(picture, tmp_path):
    picture.save(tmp_path / "a picture.png")
    return str(tmp_path / "a picture.png")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command on arguments and piped lines. Returns the exit code, stdout and stderr."""

    def command(*arguments, piped: bytes = b""):
        monkeypatch.setattr(sys, "argv", ["vlm", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A world of three pictures with two questions each."""
    root = tmp_path_factory.mktemp("web") / "world"
    (root / "gqa/images").mkdir(parents=True)
    questions = {}
    for number in range(3):
        pictures.noise(60, 40, number).save(root / f"gqa/images/{number}.jpg")
        for kind in "ab":
            questions[f"{number}{kind}"] = {"imageId": str(number), "question": f"{kind}{number}?"}
    write_json(root / "gqa/testdev_balanced_questions.json", questions)
    return root


@pytest.fixture(scope="module")
def page(request, tiny_vlm, world) -> Iterator[str]:
    """The address of a served page; afterwards the server is stopped as a user does it, with a tab still open."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vlm.cli", "web", str(tiny_vlm), "--port", "0", "--world", str(world)),
            *("--max-upload", "0.1", "--max-new-tokens", "24"),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"the page is at (http://127\.0\.0\.1:\d+) \(Ctrl-C stops\)", line)
    assert found, line + process.stdout.read()
    yield found[1]
    closed = request.module.__name__.endswith("test_web")  # the terminal; in the other module Ctrl-C
    with urllib.request.urlopen(f"{found[1]}/gradio_api/heartbeat/tab"):  # the stream that a tab keeps open
        process.send_signal(signal.SIGHUP if closed else signal.SIGINT)
        rest = process.stdout.read()
    assert (process.wait(30), rest) == ((129, "hung up\n") if closed else (130, "interrupted\n"))
