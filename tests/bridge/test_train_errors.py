"""Mistakes that a user can make when starting a training run: each gives one line."""

import pytest

from bridge.config import parse_config
from vlm.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--gqa", "none"], "none is not a folder: GQA needs"),
        (["--row-tokens", "9"], "more than --row-tokens 9 allows"),
        (["--llm", "none"], "unknown language model 'none'"),
        (["--encoder", "none"], "none is neither a folder nor a hub id"),
        (["--encoder", "random:none"], "none is neither a folder nor a hub id"),
        (["--gqa-split", "test"], "test_balanced_questions.json is missing"),
        (["--init", "none", "--normalisation", "clip"], "leave out --normalisation"),
        (["--conversation-images", "none"], "give both"),
        (["--lr-lora", "1e-4"], "--lr-lora 0.0001 is LoRA's learning rate: give --lora R"),
        (["--features", "x", "--no-cache"], "--features DIR keeps what --no-cache makes anew"),
        (["--world-size", "8"], "--world-size is of --plan"),
    ],
)
def test_bad_input(training, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        training.run(tmp_path / "out", *changes)
    assert not (tmp_path / "out/vlm").exists()


def test_bad_input_of_the_command_is_one_line(training, tmp_path):
    output = training.command(*training.flags(tmp_path / "out", "--gqa", str(tmp_path / "none")), expect=2)
    assert output == f"error: {tmp_path}/none is not a folder: GQA needs its question files and images in one folder\n"


def test_a_flag_of_a_data_set_that_is_not_there():
    with pytest.raises(UserError, match="--vqav2-answers is of --vqav2, which is not given"):
        parse_config(["--llm", "smollm2", "--encoder", "blind", "--gqa", "g", "--vqav2-answers", "votes"])


def test_no_flags_name_the_commands_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"run `deepspeed pretrain/run.py` first"):
        parse_config(["--llm", "smollm2"])
    (tmp_path / "runs/pretrain/encoder").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run `python scripts/make_world.py runs/world`"):
        parse_config(["--llm", "smollm2"])
    (tmp_path / "runs/world").mkdir(parents=True)
    config = parse_config(["--llm", "smollm2"])
    assert (config.gqa, config.vqav2) == ("runs/world/gqa", "runs/world/vqav2")
    assert (config.encoder, config.out) == ("runs/pretrain/encoder", "runs/bridge-smollm2")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--clip", "-1", "-1.0: give 0 or more"),
        ("--clip", "nan", "nan: give 0 or more"),
        ("--weight-decay", "-1", "-1.0: give 0 or more"),
        ("--lr", "nan", "nan: give a number above 0"),
        ("--lr", "inf", "inf: give a number above 0"),
        ("--lr", "0", "0.0: give a number above 0"),
        ("--seed", str(2**64), "18446744073709551616: give 0 to 18446744073709551615"),
    ],
)
def test_numbers_that_would_train_nothing_or_backwards(flag, value, message):
    with pytest.raises(UserError, match=f"{flag} {message}"):
        parse_config(["--llm", "smollm2", "--encoder", "blind", "--gqa", "a", flag, value])
