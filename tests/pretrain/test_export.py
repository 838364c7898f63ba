"""Encoders of a run that goes on: written during it, and from its checkpoints, equal to the byte."""

import commands
import pytest

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


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("zero", ["1", "3"])
def test_an_encoder_of_a_checkpoint_is_that_of_the_run_at_that_step(captions, tmp_path, zero):
    run = tmp_path / "run"
    commands.output("pretrain/run.py", "--data", captions, "--out", run, "--zero", zero, *SIZES)
    assert contents(run / "encoders/step_4") == contents(run / "encoder")
    assert contents(run / "encoders/step_2") != contents(run / "encoder")

    said = commands.output("pretrain/export.py", run, "--step", "2", "--out", tmp_path / "two")
    assert f"encoder written to {tmp_path}/two" in said.splitlines()
    assert contents(tmp_path / "two") == contents(run / "encoders/step_2")
    assert load_encoder(tmp_path / "two").config.vision_width == 16

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/one.txt").write_text("Dear")
    said = commands.output("pretrain/export.py", run, "--out", tmp_path / "letters", expect=2)
    assert said.splitlines()[-1] == (
        f"error: {tmp_path}/letters holds something else than an encoder: give another --out, or move it away"
    )
    assert (tmp_path / "letters/one.txt").read_text() == "Dear"

    said = commands.output("pretrain/export.py", run, "--step", "3", expect=2)
    assert said.splitlines()[-1] == f"error: {run} holds no checkpoint of step 3: it has 2, 4"


def test_a_damaged_checkpoint_is_not_exported(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    with pytest.raises(UserError, match="holds no checkpoint: give the folder of a run that has saved one"):
        checkpoints.verified()
    checkpoints.save(5, lambda folder: (folder / "weights").write_bytes(b"abc") and None)
    assert checkpoints.verified() == (5, tmp_path / "checkpoints/step_5")
    (tmp_path / "checkpoints/step_5/weights").write_bytes(b"abd")
    with pytest.raises(UserError, match="step_5 is damaged"):
        checkpoints.verified(5)
