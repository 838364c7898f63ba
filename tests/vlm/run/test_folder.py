"""A folder serves one run at a time, and records of steps to be repeated are dropped; the end is recorded."""

import json
import os
import socket
import subprocess
import threading

import pytest

from vlm.errors import UserError
from vlm.run.folder import begin, finish, forget_from, locked


def test_a_second_run_is_told_who_holds_the_folder(tmp_path):
    with locked(tmp_path / "run"):
        holder = rf"process {os.getpid()} on {socket.gethostname()}"
        with (
            pytest.raises(UserError, match=rf"another run is writing to .*/run \({holder}\)"),
            locked(tmp_path / "run"),
        ):
            pass
    with locked(tmp_path / "run"):
        pass


def test_what_a_kill_left_is_finished_when_the_folder_is_taken(tmp_path):
    for name in (".encoder.abc_1234.old", "checkpoints/.step_3.abc_1234.old"):
        (tmp_path / name).mkdir(parents=True)
    with locked(tmp_path):
        assert (tmp_path / "encoder").is_dir() and (tmp_path / "checkpoints" / "step_3").is_dir()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*/file \(File exists\)"), locked(tmp_path / "file"):
        pass


def test_a_folder_whose_name_is_no_utf8_is_refused_before_anything_is_trained(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    told = r"^--out '.*/caf\\udce9': the path is not UTF-8.* name another folder"
    with pytest.raises(UserError, match=told), locked(folder):
        pass
    assert not folder.exists()


def test_records_of_steps_to_be_repeated_are_dropped(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    forget_from(metrics, 3)
    assert not metrics.exists()
    metrics.write_text("".join(json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(5)) + '{"step"')
    forget_from(metrics, 3)
    assert metrics.read_text() == "".join(json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(3))


def test_a_run_is_done_from_its_end_until_it_begins_anew(tmp_path, capsys):
    finish(tmp_path, 8, tmp_path / "encoder")
    assert json.loads((tmp_path / "done.json").read_text()) == {"step": 8, "result": "encoder"}
    begin(tmp_path, {"seed": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
    assert capsys.readouterr().out == f"{tmp_path} was done: what it made is written anew\n"
    begin(tmp_path, {"seed": 4})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 4} and capsys.readouterr().out == ""


def test_what_is_left_of_a_killed_run_is_waited_for(tmp_path):
    """Its loader workers share the lock, and end some seconds after it."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    worker = subprocess.Popen(
        ["flock", tmp_path / ".lock", "-c", "echo held; read line"], stdin=-1, stdout=-1, text=True
    )
    assert worker.stdout is not None and worker.stdin is not None
    assert worker.stdout.readline() == "held\n"
    (tmp_path / ".lock").write_text(f"process {ended.pid} on {socket.gethostname()}\n")
    threading.Timer(0.3, worker.stdin.close).start()
    with locked(tmp_path):
        assert worker.wait() == 1  # `read` met the end of its input
