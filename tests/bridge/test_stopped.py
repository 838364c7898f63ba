"""Ctrl-C, SIGTERM and a closed terminal: training saves its step, the others say what they keep, and all go on."""

import os
import signal
import sys

import pytest

import bridge.loop
from bridge import evaluate
from bridge.data.features import PatchEncoder
from bridge.evaluation.answering import Asker
from vlm.errors import run_command
from vlm.files import read_json


def sending(number: int, at: int, real):
    """`real`, whose call `at` sends this process a signal before it does its work."""
    calls = []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return real(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGHUP, 129, "hung up")]
)
def test_training_saves_the_step(training, whole, tmp_path, monkeypatch, capsys, number, code, word):
    monkeypatch.setattr(bridge.loop, "update", sending(number, 3, bridge.loop.update))
    with pytest.raises(SystemExit) as end:
        run_command(lambda: training.run(tmp_path / "out"))
    monkeypatch.undo()
    saved = len(training.losses(tmp_path / "out"))
    assert (end.value.code, saved) == (code, 4)  # the ranks agree on it in the sums of the next step
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{word}: step 4 is saved, the same command goes on from there"
    assert not (tmp_path / "out/done.json").exists()
    training.run(tmp_path / "out")
    assert training.losses(tmp_path / "out") == training.losses(whole)
    assert read_json(tmp_path / "out/done.json") == {"step": 12, "result": "vlm"}


def test_filling_the_feature_cache_keeps_what_is_computed(training, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PatchEncoder, "__call__", sending(signal.SIGTERM, 2, PatchEncoder.__call__))
    monkeypatch.setattr("bridge.data.features.ENCODED_AT_ONCE", 2)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: training.run(tmp_path / "out", "--features", str(tmp_path / "out/features")))
    assert end.value.code == 143
    kept = f"the features so far are in {tmp_path}/out/features, the same command goes on from there"
    assert capsys.readouterr().err.splitlines()[-1] == f"terminated: {kept}"
    assert [path.name for path in (tmp_path / "out/features").glob("rank*")] == ["rank0_00000.safetensors"]


def test_an_evaluation_keeps_its_answers(tiny_vlm, benchmark_files, tmp_path, monkeypatch, capsys):
    given = [tiny_vlm, "--pope", benchmark_files / "pope", "--out", tmp_path / "out", "--device", "cpu"]
    flags = ["--precision", "fp32", "--max-new-tokens", "2", "--batch-questions", "2"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, given), *flags])
    monkeypatch.setattr(Asker, "decode", sending(signal.SIGINT, 2, Asker.decode))
    with pytest.raises(SystemExit) as end:
        run_command(evaluate.main)
    assert end.value.code == 130
    kept = f"the answers so far are in {tmp_path}/out/predictions, the same command goes on from there"
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted: {kept}"
    answered = len((tmp_path / "out/predictions/pope.jsonl").read_text().splitlines())
    assert 0 < answered < 12
    run_command(evaluate.main)
    report = read_json(tmp_path / "out/results.json")["benchmarks"]["pope"]
    assert report["answered_now"] == 12 - answered
