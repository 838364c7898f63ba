"""Encoders of a run that goes on: written during it, and from its checkpoints, equal to the byte."""

import json

import commands
import pytest
from tiny.tars import write_numbered_shards

from pretrain.export import export_checkpoint
from vlm.encoders.levljepa import load_encoder
from vlm.errors import UserError
from vlm.run.checkpoints import Checkpoints

SIZES = [
    "--image-size", "16", "--patch-size", "8", "--vision-width", "16", "--vision-layers", "1", "--vision-heads", "2",
    "--text-width", "16", "--text-layers", "1", "--text-heads", "2", "--embed-dim", "8", "--projector-width", "16",
    "--projector-depth", "2", "--directions", "32", "--batch-size", "8", "--tokenizer", "train:300",
    "--warmup-steps", "2", "--steps", "4", "--save-every", "2", "--export-every", "2",
]  # fmt: skip
FILES = ("vision_encoder.safetensors", "text_encoder.safetensors", "config.json", "tokenizer.json")


WRONG = [  # a setting of config.json, a value of another type, and what is said
    ("data", 7, "data is 7; needed is str"),
    ("log_every", True, "log_every is True; needed is int"),
    ("lr", "fast", "lr is 'fast'; needed is float"),
    ("zero", [3], "zero is a list of 1; needed is int | None"),
    ("allow_change", "lr", "allow_change is 'lr'; needed is tuple[str, ...]"),
]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_an_encoder_of_a_checkpoint_is_that_of_the_run_at_that_step(captions, tmp_path):
    run = tmp_path / "run"
    commands.output("pretrain/run.py", "--data", captions, "--out", run, "--zero", "3", *SIZES)
    assert contents(run / "encoders/step_4") == contents(run / "encoder")
    assert contents(run / "encoders/step_2") != contents(run / "encoder")

    said = commands.output("pretrain/export.py", run, "--step", "2", "--out", tmp_path / "two")
    assert f"encoder written to {tmp_path}/two" in said.splitlines()
    assert contents(tmp_path / "two") == contents(run / "encoders/step_2")
    assert load_encoder(tmp_path / "two").config.vision_width == 16

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/one.txt").write_text("Dear")
    with pytest.raises(UserError) as error:
        export_checkpoint(run, out=tmp_path / "letters")
    assert str(error.value) == (
        f"{tmp_path}/letters holds something else than an encoder: give another --out, or move it away"
    )
    assert (tmp_path / "letters/one.txt").read_text() == "Dear"
    with pytest.raises(UserError) as error:
        export_checkpoint(run, step=3)
    assert str(error.value) == f"{run} holds no checkpoint of step 3: it has 2, 4"

    config = json.loads((run / "config.json").read_text())
    # The run has gone on with other settings since: the checkpoint's own count.
    (run / "config.json").write_text(json.dumps({**config, "lr": 1e-5, "steps": 9, "embed_dim": 4}))
    assert contents(export_checkpoint(run, 2, tmp_path / "before")) == contents(run / "encoders/step_2")
    manifest = run / "checkpoints/step_4/manifest.json"
    whole = manifest.read_text()
    of_another = json.loads(whole)
    of_another["config"]["embed_dim"] = 4
    manifest.write_text(json.dumps(of_another))
    with pytest.raises(UserError, match=r"model of this run: .* is \(8,\), needed is \(4,\) \(30 tensors differ\)"):
        export_checkpoint(run)
    manifest.write_text(whole)
    for name, value, problem in WRONG:
        (run / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(UserError) as error:
            export_checkpoint(run)
        assert str(error.value) == f"{run}/config.json: {problem}: restore what the run has written"

    (run / "encoder").rename(tmp_path / "elsewhere")  # its tokenizer is learnt again, from the same captions alone
    (run / "config.json").write_text(json.dumps(config))
    assert contents(export_checkpoint(run, 2, tmp_path / "again")) == contents(tmp_path / "two")
    others = write_numbered_shards(tmp_path / "others", (20, 20))
    (run / "config.json").write_text(json.dumps({**config, "data": str(others)}))
    with pytest.raises(UserError, match=f"^{others} is not the data that {run} learnt its tokenizer from: restore it"):
        export_checkpoint(run, 2, tmp_path / "wrong")
    (run / "config.json").write_text(json.dumps({**config, "tokenizer": "train:400"}))
    with pytest.raises(UserError, match=f"^train:400 is not the tokenizer that {run} was trained with: restore it"):
        export_checkpoint(run, 2, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_damaged_checkpoint_is_not_exported(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    with pytest.raises(UserError, match="holds no checkpoint: give the folder of a run that has saved one"):
        checkpoints.verified()
    checkpoints.save(5, lambda folder: (folder / "weights").write_bytes(b"abc") and None)
    assert checkpoints.verified() == (5, tmp_path / "checkpoints/step_5")
    (tmp_path / "checkpoints/step_5/weights").write_bytes(b"abd")
    with pytest.raises(UserError, match="step_5 is damaged"):
        checkpoints.verified(5)
