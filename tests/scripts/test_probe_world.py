"""scripts/probe_world.py: every probe on the world, with the encoder loaded once."""

import json

import probe_world
import pytest
from study import probing

from pretrain import probe
from pretrain.probes import tasks
from vlm.encoders.levljepa import load_encoder


def test_every_task_has_a_place():
    assert list(probe_world.PLACES) == list(probe.TASKS)


def test_numbers_carry_their_task_and_settings_are_left_out():
    numbers = {"accuracy": 0.5, "ridge": 0.1, "classes": 8, "auc_per_name": {"star": 0.5}}
    assert probing.scores("linear", numbers) == {"linear: accuracy": 0.5}


def test_tasks_share_one_file_and_one_encoder(world_root, make_encoder, tmp_path, monkeypatch):
    make_encoder(tmp_path / "encoder")
    loads = []
    monkeypatch.setattr(probing, "load_encoder", lambda folder: loads.append(folder) or load_encoder(folder))
    flags = ["--tasks", "zero-shot", "knn", "retrieval", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["probe_world.py", str(tmp_path / "encoder"), str(world_root), *flags])
    probe_world.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert loads == [tmp_path / "encoder"]
    assert list(found)[:3] == ["zero-shot: accuracy", "knn: accuracy", "retrieval: image_to_text_r1"]
    args = probe.parse([str(tmp_path / "encoder"), "--task", "knn", "--data", str(world_root / "classes")])
    assert found["knn: accuracy"] == pytest.approx(tasks.knn(load_encoder(tmp_path / "encoder"), args)["accuracy"])
