"""Each LLM has a default folder of its own; a folder that holds another run is refused before anything is loaded."""

import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridge import train
from bridge.config import parse_config
from bridge.same_run import check_folder, models_differ
from vlm.errors import UserError
from vlm.files import write_json

GIVEN = ("--encoder", "blind", "--gqa", "data/gqa")


@pytest.mark.parametrize(
    ("llm", "out"),
    [
        ("smollm2", "runs/bridge-smollm2"),
        ("llama", "runs/bridge-llama"),
        ("qwen", "runs/bridge-qwen"),
        ("Qwen/Qwen3-0.6B", "runs/bridge-Qwen-Qwen3-0.6B"),
        ("models/SmolLM2.Q8_0.gguf", "runs/bridge-SmolLM2.Q8_0"),
        ("there/my model/", "runs/bridge-my-model"),
        ("there/models--org--Name-1B/snapshots/abc", "runs/bridge-org-Name-1B"),
    ],
)
def test_each_llm_has_its_own_default_folder(tmp_path, monkeypatch, llm, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there/my model").mkdir(parents=True)
    (tmp_path / "there/models--org--Name-1B/snapshots/abc").mkdir(parents=True)
    assert parse_config(["--llm", llm, *GIVEN]).out == out
    assert parse_config(["--llm", llm, *GIVEN, "--out", "elsewhere"]).out == "elsewhere"


def test_a_run_that_goes_on_from_another_is_named_after_it():
    assert parse_config(["--init", "runs/qwen/vlm", "--gqa", "a"]).out == "runs/qwen-continued"
    assert parse_config(["--init", "saved", "--gqa", "a"]).out == "runs/saved-continued"


def weights(folder, value: float, files: int = 1):
    folder.mkdir(parents=True)
    tensors = {f"layer.{number}": np.full((3, 2), value + number, np.float32) for number in range(4)}
    for number in range(files):
        save_file(dict(list(tensors.items())[number::files]), folder / f"model-{number}.safetensors")
    return str(folder)


def test_models_that_surely_differ(tmp_path):
    one, again = weights(tmp_path / "one", 1.0), weights(tmp_path / "again", 1.0, files=2)
    other, moved = weights(tmp_path / "other", 1.5), str(tmp_path / "moved")
    assert not models_differ(one, one) and not models_differ(one, again)  # cut into other files
    assert models_differ(one, other)
    assert not models_differ(moved, one)  # nobody can tell what lay there
    assert not models_differ("qwen", one)  # it may be a copy
    assert models_differ("qwen", "smollm2") and models_differ("Qwen/Qwen3-0.6B", "qwen")
    assert not models_differ("qwen", "Qwen/Qwen2.5-1.5B-Instruct")
    assert models_differ(one, f"random:{one}") and models_differ("blind", one) and models_differ(None, one)
    assert not models_differ(f"random:{one}", f"random:{other}")  # of the sizes, which are compared later
    assert models_differ("timm:vit_tiny_patch16_224", "timm:vit_small_patch16_224")
    assert models_differ("timm:vit_tiny_patch16_224", "hf:facebook/dinov2-small")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--llm", "qwen"), "llm 'smollm2' -> 'qwen'"),
        (("--llm", "smollm2", "--encoder", "random:enc"), "encoder 'blind' -> 'random:enc'"),
        (("--llm", "smollm2", "--lr", "0.5", "--seed", "3"), "lr 0.001 -> 0.5, seed 0 -> 3"),
        (("--llm", "smollm2", "--vqav2", "data/vqav2"), "vqav2 None -> 'data/vqav2'"),
        (("--llm", "smollm2", "--resume", "never"), "holds a run at step 100: give another --out"),
    ],
)
def test_a_clash_is_told_before_data_and_torch(tmp_path, monkeypatch, flags, message):
    """None of the files that the flags name exist, so nothing of them has been opened."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    begun = parse_config(["--llm", "smollm2", *GIVEN, "--out", str(out)])
    write_json(out / "config.json", vars(begun))
    (out / "checkpoints/step_100").mkdir(parents=True)
    check_folder(begun)
    given = ["train.py", *GIVEN, *flags, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(UserError, match=message):
        train.main()
    monkeypatch.setenv("RANK", "1")  # one process tells
    with pytest.raises(SystemExit, match="2"):
        train.main()


def test_a_run_to_resume_must_be_there(tmp_path):
    config = parse_config(["--llm", "qwen", *GIVEN, "--out", str(tmp_path), "--resume", "required"])
    with pytest.raises(UserError, match=r"has no checkpoint: use --resume auto"):
        check_folder(config)


def test_another_llm_in_a_folder_is_one_line_in_no_time(training, whole, tmp_path):
    shutil.copytree(training.root / "llm", tmp_path / "llm")
    config = (tmp_path / "llm/config.json").read_text()
    (tmp_path / "llm/config.json").write_text(config.replace("_", "!"))  # which nothing could load
    other = np.full((2, 2), 7, np.float32)
    save_file({"model.embed_tokens.weight": other}, tmp_path / "llm/model.safetensors")
    flags = training.flags(whole, "--llm", str(tmp_path / "llm"))
    output = training.command(*flags, expect=2)
    assert output == (
        f"error: {whole} was started with other settings (llm '{training.root / 'llm'}' -> '{tmp_path / 'llm'}'): "
        "restore them or give another --out\n"
    )
