"""What --zero, --dtype and --compile leave open: decided by processes and device; a run that goes on keeps some."""

import json

import pytest
import torch

from pretrain import compiling, train
from pretrain.config import from_preset
from vlm.errors import UserError
from vlm.run import compiler


def decided(monkeypatch, out, fast, processes, **changes):
    monkeypatch.setattr(train, "default_dtype", lambda device: torch.bfloat16 if fast else torch.float32)
    monkeypatch.setattr(train, "world_size", lambda: processes)
    config = train.decided(from_preset("tiny", out=str(out), **changes), torch.device("cpu"))
    return config.zero, config.dtype


def test_processes_and_device_decide_and_a_run_keeps_its_dtype(tmp_path, monkeypatch):
    assert decided(monkeypatch, tmp_path, True, 1) == (0, "bf16")
    assert decided(monkeypatch, tmp_path, False, 2) == (1, "fp32")
    assert decided(monkeypatch, tmp_path, False, 2, zero=0, dtype="bf16") == (0, "bf16")

    (tmp_path / "config.json").write_text(json.dumps({"zero": 2, "dtype": "bf16"}))
    assert decided(monkeypatch, tmp_path, False, 1) == (0, "fp32")  # nothing to go on with: a new run
    (tmp_path / "checkpoints/step_5").mkdir(parents=True)
    assert decided(monkeypatch, tmp_path, False, 1) == (0, "bf16")  # a checkpoint fits every stage
    assert decided(monkeypatch, tmp_path, False, 1, dtype="fp32") == (0, "fp32")  # which the checkpoint then refuses

    branch = {"branch": str(tmp_path), "branch_step": 5}
    (tmp_path / "checkpoints/step_5/manifest.json").write_text(json.dumps({"config": {"zero": 2, "dtype": "bf16"}}))
    assert decided(monkeypatch, tmp_path / "branch", False, 1, **branch) == (0, "bf16")
    assert decided(monkeypatch, tmp_path / "branch", False, 1, branch=str(tmp_path / "none")) == (0, "fp32")


def test_towers_are_compiled_on_gpus_that_can(tmp_path, monkeypatch, capsys):
    def compiled(lack, **changes):
        monkeypatch.setattr(compiling, "lacking_anywhere", lambda device: lack)
        monkeypatch.setattr(compiler, "lacking_anywhere", lambda device: lack)
        config = from_preset("tiny", out=str(tmp_path), dtype="fp32", **changes)
        return train.decided(config, torch.device("cuda")).compile

    assert compiled(None) is True and compiled(None, zero=3) is False and capsys.readouterr().err == ""
    assert compiled("no gcc", compile=False) is False and capsys.readouterr().err == ""
    assert compiled("no gcc") is False and capsys.readouterr().err == "the towers run uncompiled: no gcc\n"
    with pytest.raises(UserError, match="--compile: no gcc, or leave it out"):
        compiled("no gcc", compile=True)
    (tmp_path / "config.json").write_text(json.dumps({"compile": True}))
    (tmp_path / "checkpoints/step_5").mkdir(parents=True)
    with pytest.raises(UserError, match="or go on with --no-compile --allow-change compile"):
        compiled("no gcc")
