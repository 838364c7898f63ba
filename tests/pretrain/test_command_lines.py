"""The command lines of pretraining: help at once, and one line for what cannot be."""

import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pretrain import probe
from pretrain.config import PretrainConfig
from pretrain.data.order import Stream
from pretrain.probes import settings, tasks
from pretrain.report import ReportConfig
from vlm.run.settings import known_of

ROOT = Path(__file__).resolve().parents[2]


def run(command, *flags):
    return subprocess.run([sys.executable, f"pretrain/{command}.py", *flags], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["run", "probe", "report", "export"])
def test_help_costs_less_than_a_second(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(command, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "examples:" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("config", [PretrainConfig, settings.ProbeConfig, ReportConfig])
def test_every_flag_has_a_help_text(config):
    assert all(known_of(declared).help for declared in fields(config))


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("probe", ("encoder", "--task", "knn", "--data", "d", "--seed", "-1"), "error: --seed -1: give 0 to 1844674"),
        ("probe", ("encoder", "--task", "retrieval", "--data", "d", "--pool", "0"), "error: --pool 0: give 5 or more"),
        ("probe", ("encoder", "--task", "knn", "--data", "d", "--bogus"), "unrecognized arguments: --bogus"),
        ("probe", ("encoder", "--task", "guess", "--data", "d"), "argument --task: invalid choice: 'guess'"),
        ("run", ("--seed", str(2**64)), "error: --seed 18446744073709551616: give 0 to 18446744073709551615"),
        ("report", (), "the following arguments are required: run"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(command, flags, message):
    done = run(command, *flags)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_every_task_is_explained_and_can_be_measured():
    assert list(settings.TASKS) == list(tasks.TASKS)
    explained = probe.tasks_explained()
    assert "  knn           k-NN on CLS, cosine, k 20, votes exp(cos / 0.07); data as for linear" in explained
    assert all(len(line) <= 120 for line in explained.splitlines())


def test_flags_of_a_probe_become_its_settings():
    flags = ["e", "--task", "zero-shot", "--data", "d", "--template", "a {}.", "--template", "the {}.", "--seed", "7"]
    config = probe.parse(flags)
    assert (config.encoder, config.task, config.data, config.seed) == ("e", "zero-shot", "d", 7)
    assert config.template == ("a {}.", "the {}.")
    assert tasks.captions_of(config) == (("a {}.", "the {}."), None)


def test_the_streams_of_random_numbers_keep_their_keys():
    """A run that goes on, or is repeated, must draw what it drew before."""
    assert {stream.name: stream.value for stream in Stream} == {
        "RUNS": 0, "BLOCKS": 1, "SAMPLES": 2, "FILL": 3, "AUGMENT": 4, "MIX": 5, "SOURCES": 6, "CAPTION": 7,
    }  # fmt: skip
