"""Training runs that are killed, damaged, locked or meet a gradient that is not finite."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

import bridge.training
from bridge.training import Sums, update
from vlm.errors import UserError
from vlm.runs import locked


def test_resume_equals_an_uninterrupted_run(training, whole, tmp_path, capsys):
    out = tmp_path / "resumed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "vlm")
    shutil.rmtree(out / "checkpoints/step_12")  # as if killed after step 11; its metrics are already written
    training.run(out, "--resume", "required", "--no-cache")
    assert training.losses(out) == training.losses(whole)
    assert training.weights(out).keys() == training.weights(whole).keys()
    assert all(torch.equal(training.weights(out)[name], value) for name, value in training.weights(whole).items())

    damaged = out / "checkpoints/step_12/weights.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 16
    damaged.write_bytes(data)
    training.run(out)
    assert "step_12: weights.safetensors is missing or not what was written" in capsys.readouterr().err
    assert training.losses(out) == training.losses(whole)

    with pytest.raises(UserError, match=r"started with other settings \(lr 0.05 -> 0.02\)"):
        training.run(out, "--lr", "0.02")
    with pytest.raises(UserError, match="holds a run at step 12: give another --out"):
        training.run(out, "--resume", "never")


def test_sigterm_saves_the_step(training, whole, tmp_path, monkeypatch):
    real, updates = bridge.training.update, []

    def update_then_signal(*arguments):
        norm = real(*arguments)
        updates.append(norm)
        if len(updates) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return norm

    monkeypatch.setattr(bridge.training, "update", update_then_signal)
    with pytest.raises(SystemExit) as exit:
        training.run(tmp_path / "out")
    assert exit.value.code == 143
    monkeypatch.undo()
    saved = len(training.losses(tmp_path / "out"))
    assert saved == 4  # the ranks agree on it in the sums of the next step
    assert (tmp_path / f"out/checkpoints/step_{saved}").is_dir()
    training.run(tmp_path / "out")
    assert training.losses(tmp_path / "out") == training.losses(whole)


def test_a_folder_serves_one_run_at_a_time(training, tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another run is writing"):
        training.run(tmp_path)


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (1.0, float("inf")), (1.0, float("nan"))])
def test_nothing_moves_without_a_finite_gradient(loss, gradient):
    weight = torch.nn.Parameter(torch.ones(3))
    trainee = SimpleNamespace(weights={"w": weight})
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.full((3,), gradient)
    assert update(trainee, optimizer, Sums(loss, 1, 1, 1, False), clip=1.0) is None
    assert weight.tolist() == [1, 1, 1]
    assert not optimizer.state
    weight.grad = torch.full((3,), 2.0)
    norm = update(trainee, optimizer, Sums(1.0, 1, 1, 1, False), clip=1.0)
    assert norm == pytest.approx(12**0.5)
    assert weight[0] < 1
