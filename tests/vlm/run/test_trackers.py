"""Every tracker shows each step of a run once, however often the run was resumed."""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from vlm.errors import UserError
from vlm.files import append_jsonl, write_json
from vlm.run import trackers
from vlm.run.folder import forget_from
from vlm.run.trackers import check_tracker, open_tracker, tag


def record(step, loss):
    return {"step": step, "loss": loss, "lr": 0.5, "warning": "text"}


def killed_after_step_4_and_resumed_from_step_3(name, run):
    log = open_tracker(name, run, {"seed": 0}, 0)
    for step in range(5):
        log([record(step, None if step == 1 else step / 4)])
        append_jsonl(run / "metrics.jsonl", record(step, step / 4))
    log = open_tracker(name, run, {"seed": 0}, 3)
    log([record(step, step / 4) for step in range(3, 7)])


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed_after_step_4_and_resumed_from_step_3("auto", tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss/total", "lr"]
    shown = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert shown == [(step, step / 4) for step in (0, 2, 3, 4, 5, 6)]  # NaN in step 1 has no point


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_hosted(name, tmp_path, monkeypatch):
    begun, shown = [], []

    def log(scalars, step):
        shown.append((step, scalars))

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=lambda **options: begun.append(options), log=log))
    killed_after_step_4_and_resumed_from_step_3(name, tmp_path)
    assert begun[0] == begun[1]
    assert begun[0]["resume"] == "allow" and begun[0]["config"] == {"seed": 0}
    assert begun[0]["name"].startswith(tmp_path.name + "-")
    losses = [{"lr": 0.5} if step == 1 else {"loss/total": step / 4, "lr": 0.5} for step in range(7)]
    assert shown == list(enumerate(losses))


@pytest.mark.parametrize("older", [False, True], ids=["", "begun before the last step was kept"])
def test_hosted_sends_no_step_twice_after_two_kills(tmp_path, monkeypatch, older):
    steps = []
    fake = SimpleNamespace(init=lambda **options: None, log=lambda scalars, step: steps.append(step))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for start, killed_after in ((0, 8), (3, 5), (3, 9)):
        tracker = open_tracker("wandb", tmp_path, {}, start)
        forget_from(tmp_path / "metrics.jsonl", start)
        for step in range(start, killed_after + 1):
            append_jsonl(tmp_path / "metrics.jsonl", record(step, 1.0))
            tracker([record(step, 1.0)])
        if older and start == 0:
            write_json(tmp_path / "wandb.json", {"run": "a"})
    assert steps == list(range(10))


def test_names_are_grouped():
    names = ("loss", "predict_image", "sigreg_text", "rank_image", "samples_per_s", "gradient_norm", "lr", "skipped")
    assert [tag(name) for name in names] == [
        "loss/total",
        "loss/predict_image",
        "loss/sigreg_text",
        "rank/rank_image",
        "speed/samples_per_s",
        "gradient/gradient_norm",
        "lr",
        "skipped",
    ]


def test_a_picture_is_sent_once(tmp_path, monkeypatch):
    shown = []
    fake = SimpleNamespace(init=lambda **options: None, Image=lambda image, caption: (image.size, caption))
    fake.log = lambda what, step: shown.append((step, what))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    append_jsonl(tmp_path / "metrics.jsonl", record(4, 1.0))
    tracker, image = open_tracker("wandb", tmp_path, {}, 3), Image.new("RGB", (6, 4))
    for step in (4, 9):
        tracker.picture(step, "answers", image, "a table")
    assert shown == [(9, {"answers": ((6, 4), "a table")})]


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--tracker wandb: .* not installed: pip install wandb"):
        check_tracker("wandb")
    check_tracker("auto")
    open_tracker("auto", tmp_path, {}, 0)([record(0, 1.0)])
    assert capsys.readouterr().err.startswith("tensorboard is not installed: the run is recorded in")
    assert list(tmp_path.iterdir()) == []
