"""Runs the `vlm` command in this process."""

import io
import sys

import pytest

from vlm import cli


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
