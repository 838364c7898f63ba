"""The command lines of evaluate, score and results: defaults, refusals, and help that comes at once."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import results, score
from bridge.evaluation.settings import EvaluateConfig, parse_config
from vlm.errors import UserError

ROOT = Path(__file__).parents[3]


def test_defaults():
    assert parse_config("about", ["runs/x"]) == EvaluateConfig(
        vlm="runs/x", gqa=None, vqav2=None, pope=None, gqa_split="testdev", vqav2_split=None, out=None,
        limit_images=None, max_new_tokens=128, mode="official", blind=False, oracle=None, shuffle_images=False,
        baseline=(), batch_questions=64, precision=None, load_in=None, device=None, overwrite=False,
    )  # fmt: skip
    config = score.parse_config(["gqa", "--questions", "q", "--predictions", "p"])
    assert config == score.ScoreConfig(
        benchmark="gqa", questions="q", predictions="p", annotations=None, choices=None, mode="official", json=None,
        llava_processing=False, allow_missing=False,
    )  # fmt: skip


def test_a_flag_that_may_be_repeated_and_what_the_model_sees():
    config = parse_config("about", ["x", "--baseline", "a=A", "--baseline", "b=B", "--shuffle-images"])
    assert (config.baseline, config.sees) == (("a=A", "b=B"), "other images")
    assert parse_config("about", ["x", "--blind"]).sees == "nothing"
    assert parse_config("about", ["x", "--oracle", "c.json"]).sees == "captions"
    assert parse_config("about", ["x"]).sees == "images"


@pytest.mark.parametrize("flag", ["--limit-images", "--max-new-tokens", "--batch-questions"])
def test_a_number_out_of_bounds_is_refused(flag):
    with pytest.raises(UserError, match=f"^{flag} 0: give 1 or more$"):
        parse_config("about", ["x", flag, "0"])


@pytest.mark.parametrize(
    "arguments", [["x", "--mode", "mine"], ["x", "--precision", "fp16"], ["x", "--gqa_split", "val"], []]
)
def test_what_the_parser_refuses_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_config("about", arguments)
    assert stopped.value.code == 2 and "python bridge/evaluate.py: error: " in capsys.readouterr().err


def test_a_device_that_is_not_there(monkeypatch):
    import torch

    from vlm.llms.precision import chosen_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device(None) == torch.device("cpu")
    with pytest.raises(UserError, match="--device nonsense: this is no device; give cpu, cuda or mps"):
        chosen_device("nonsense")
    with pytest.raises(UserError, match="--device cuda:1: there is no CUDA device here; give cpu"):
        chosen_device("cuda:1")


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    import torch

    from vlm.llms.precision import chosen_device

    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert chosen_device(None, 1) == chosen_device("cuda", 1) == torch.device("cuda:1") == chosen[-1]
    assert chosen_device("cuda:0", 1) == torch.device("cuda:0") and chosen_device("cpu", 5) == torch.device("cpu")
    assert chosen_device(None) == torch.device("cuda")
    with pytest.raises(UserError, match="process 2 of this machine has no GPU of its own: launch 2 processes"):
        chosen_device(None, 2)
    with pytest.raises(UserError, match="--device cuda:7: there are 2 CUDA devices here; give cuda:0 to cuda:1"):
        chosen_device("cuda:7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gqa", "--allow-missing"], "--allow-missing is for vqav2, not for gqa"),
        (["pope", "--choices", "c"], "--choices is for gqa, not for pope"),
        (["vqav2"], "vqav2 needs --annotations"),
        (["pope", "--llava-processing"], "--llava-processing is for gqa and vqav2"),
    ],
)
def test_flags_of_another_benchmark(arguments, message):
    with pytest.raises(UserError, match=message):
        score.parse_config([*arguments, "--questions", "q", "--predictions", "p"])


@pytest.mark.parametrize("name", ["evaluate", "score", "results"])
def test_help_comes_at_once_and_says_something_of_every_flag(name):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, f"bridge/{name}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and f"python bridge/{name}.py" in done.stdout and "examples:" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # seconds of CPU


@pytest.mark.parametrize("config", [EvaluateConfig, score.ScoreConfig, results.ResultsConfig])
def test_every_flag_has_a_help_text(config):
    assert all(field.metadata["setting"].help for field in config.__dataclass_fields__.values())
