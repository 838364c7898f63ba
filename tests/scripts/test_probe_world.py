"""scripts/probe_world.py: every probe on the world, with the encoder loaded once."""

import json

import probe_world
import pytest
from study import probes, probing

from pretrain import probe
from pretrain.probes import tasks
from vlm.encoders.levljepa import load_encoder
from vlm.errors import UserError


def test_every_task_has_a_place():
    assert list(probes.PLACES) == list(probe.TASKS)


def test_numbers_carry_their_task_and_settings_are_left_out():
    numbers = {"accuracy": 0.5, "ridge": 0.1, "classes": 8, "auc_per_name": {"star": 0.5}}
    assert probing.scores("linear", numbers) == {"linear: accuracy": 0.5}


def test_a_task_of_the_world_or_of_other_data_under_a_name():
    found = probes.named_probes(["knn", "unseen=retrieval:a/vendor-*.tar"], "world")
    assert [(each.name, each.task, each.data) for each in found] == [
        ("knn", "knn", "world/classes"),
        ("unseen", "retrieval", "a/vendor-*.tar"),
    ]
    for split in ("testdev", "val"):
        (each,) = probes.named_probes(["retrieval"], "world", split)
        assert each.data == f"world/captions/{split}-*.tar"
    for asked, said in (
        (["nearest"], "'nearest' is no probe: give of zero-shot"),
        (["a=retrieval"], "'a=retrieval' is no probe"),
        (["knn"], "knn is measured on the embedded world: give its folder, or NAME=knn:DATA"),
        (["a=knn:x", "a=linear:x"], "two probes are named a"),
    ):
        with pytest.raises(UserError, match=said):
            probes.named_probes(asked, None)


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
