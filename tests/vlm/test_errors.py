"""Errors of the disk are one line that names the file; mistakes of the program keep their traceback."""

import atexit
import errno
import os
import sys

import pytest

from vlm.errors import UserError, one_line, run_command, told_once, writing
from vlm.files import append_jsonl, write_json


def test_a_full_disk_names_the_file(tmp_path):
    full = r"cannot write /dev/full \(No space left on device; 9 bytes needed, [\d,]+ bytes free\): what was there"
    with pytest.raises(UserError, match=full):
        append_jsonl("/dev/full", {"n": 1})
    with pytest.raises(
        UserError,
        match=r"cannot write .*/file/x\.json \((Not a directory|File exists); 3 bytes needed, [\d,]+ bytes free\)",
    ):
        (tmp_path / "file").write_text("")
        write_json(tmp_path / "file/x.json", {})
    with pytest.raises(KeyError), writing("x"):  # a mistake of ours
        raise KeyError("name")


def test_what_an_error_says_is_one_line():
    assert one_line(ValueError("a\n  b \t c")) == "a b c"
    assert one_line(ValueError("x" * 400)) == "x" * 300
    assert one_line(ValueError("x" * 400), most=7) == "x" * 7
    assert one_line(ValueError("x" * 400), most=None) == "x" * 400
    assert one_line(OSError()) == one_line(OSError(" \n")) == "OSError"  # says nothing


def outcome(capsys, error: Exception):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit:
        run_command(main)
    return exit.value.code, capsys.readouterr().err


def test_closed_streams_and_letters_that_an_encoding_lacks_end_no_command(monkeypatch, tmp_path):
    for name in ("stdin", "stdout", "stderr"):
        with monkeypatch.context() as closed:
            closed.setattr(sys, name, None)
            run_command(lambda: print(sys.stdin.isatty(), file=sys.stderr))
            assert getattr(sys, name).name == "/dev/null"
            getattr(sys, name).close()
    with open(tmp_path / "out", "w", encoding="latin-1") as latin:
        monkeypatch.setattr(sys, "stdout", latin)
        run_command(lambda: print("caf\xe9 \u010a"))
    assert (tmp_path / "out").read_bytes() == b"caf\xe9 ?\n"


def test_no_command_begins_with_a_wrong_limit_of_pixels(capsys, monkeypatch):
    monkeypatch.setenv("LEVLM_MAX_MEGAPIXELS", "many")
    with pytest.raises(SystemExit) as end:
        run_command(lambda: pytest.fail("it began"))
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: LEVLM_MAX_MEGAPIXELS=many: give a whole number of megapixels, 1 or more, or unset it\n"
    )


def test_a_refused_file_is_one_line_and_a_mistake_a_traceback(capsys, monkeypatch):
    refused = PermissionError(errno.EACCES, "Permission denied", "/root/out")
    assert outcome(capsys, refused) == (2, "error: /root/out: Permission denied\n")
    for mistake in (FileNotFoundError(errno.ENOENT, "No such file", "ours"), OSError("weird"), KeyError("name")):
        with pytest.raises(type(mistake)):
            outcome(capsys, mistake)
    monkeypatch.setenv("LEVLM_DEBUG", "1")
    with pytest.raises(PermissionError):
        outcome(capsys, refused)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"RANK": "1"},
            "RANK=1, WORLD_SIZE=(nothing), MASTER_ADDR=(nothing), MASTER_PORT=(nothing), which is no place",
        ),
        ({"WORLD_SIZE": "2"}, "RANK=(nothing), WORLD_SIZE=2, "),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "MASTER_PORT=(nothing), which is no place"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, "which is no place"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "which is no place"),
        (
            {"RANK": "first"},
            "RANK=first, WORLD_SIZE=(nothing), MASTER_ADDR=(nothing), MASTER_PORT=(nothing); needed are",
        ),
    ],
)
def test_a_part_of_a_launchers_environment_is_refused(capsys, monkeypatch, given, words):
    """With RANK=1 alone, a run would train to its end and save nothing."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "_exit", sys.exit)  # how one of several processes ends
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: pytest.fail("it began"))
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and said.count("\n") == 1
    assert "or go on alone by env -u RANK -u WORLD_SIZE COMMAND" in said


@pytest.mark.parametrize("given", [{}, {"RANK": "0"}, {"WORLD_SIZE": ""}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_one_process_needs_no_launcher(monkeypatch, given):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    begun = []
    monkeypatch.setattr(os, "_exit", begun.append)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    run_command(lambda: begun.append(os.environ.get("WORLD_SIZE")))
    assert begun[0] in (None, "1")


@pytest.mark.parametrize(("local_rank", "raised"), [("0", UserError), ("1", SystemExit)])
def test_what_every_process_of_a_machine_finds_is_told_once(monkeypatch, local_rank, raised):
    def refuse():
        raise UserError("no room")

    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(raised) as end:
        told_once(refuse)
    assert str(end.value) == {UserError: "no room", SystemExit: "2"}[raised]


def test_a_folder_that_is_gone_is_one_line(capsys, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: pytest.fail("it began"))
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the current folder has been deleted: cd to another one\n"
