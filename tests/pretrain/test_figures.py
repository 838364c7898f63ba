"""The numbers behind the report's figures, and the page that shows them."""

import base64
import re
import sys

import pytest
import torch
from tiny.encoders import text_encoder

from pretrain import figures, report
from vlm.errors import UserError
from vlm.files import append_jsonl, write_json


def test_curves_are_running_means_over_the_finite_points():
    records = [{"step": step, "loss": float(step), "lr": 0.1, "sigreg_image": 2.0} for step in range(200)]
    records[10]["loss"] = None
    figure = figures.curves(records)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    faint, mean = panels["loss"].lines
    assert list(faint.get_xdata()) == [step for step in range(200) if step != 10]
    means = list(mean.get_ydata())  # over the fiftieth of 199 points: 3
    assert means[:3] == [0.0, 0.5, 1.0] and means[-1] == 198.0
    assert [line.get_label() for line in panels["parts of the loss"].lines[1::2]] == ["sigreg image"]
    assert list(panels) == ["loss", "parts of the loss", "learning rate"]


def test_spectrum_shows_how_many_directions_are_used():
    z = torch.zeros(40, 8)
    z[:, :2] = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    lines = figures.spectrum({"image": z}, {"image": 2.0}).axes[0].lines
    shares = torch.tensor(lines[0].get_ydata())
    assert shares[:2].sum() == pytest.approx(1)
    assert shares[2:].max() == pytest.approx(1e-12)
    assert set(lines[1].get_ydata()) == {1 / 8}


def test_the_command_writes_one_page(captions, tmp_path, monkeypatch):
    run = tmp_path / "run"
    write_json(run / "config.json", {"objective": "levljepa", "preset": "tiny", "seed": 0, "steps": 9, "batch_size": 8,
                                     "data": str(captions), "image_column": None, "caption_column": None})  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["report.py", str(run)])
    with pytest.raises(UserError, match="holds no pretraining run with a first step"):
        report.main()
    for step in range(3):
        append_jsonl(run / "metrics.jsonl", {"step": step, "loss": 0.5, "lr": 0.1, "skipped": step // 2})
    text_encoder(["a red picture"]).save(run / "encoder")
    report.main()
    page = (run / "report.html").read_text()
    assert page.count("<svg role=") == 3 and "prefers-color-scheme: dark" in page
    pictures = re.findall(r'href="data:image/png;base64,([^"]*)"', page)  # images and their patch tokens
    assert len(pictures) == 2 * figures.SHOWN_IMAGES
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "3 of 9, 8 pairs each" in page and "Embeddings of 40 pairs." in page
    assert re.search(r"steps skipped</td><td>1<", page)
    assert "http" not in page


def test_a_run_whose_data_are_gone_has_its_curves_and_a_note(tmp_path, capsys):
    run, gone = tmp_path / "run", str(tmp_path / "gone")
    write_json(run / "config.json", {"objective": "levljepa", "preset": "tiny", "seed": 0, "steps": 9, "batch_size": 8,
                                     "data": gone})  # fmt: skip
    append_jsonl(run / "metrics.jsonl", {"step": 0, "loss": 0.5, "lr": 0.1, "probe_zero_shot": 0.25})
    text_encoder(["a red picture"]).save(run / "encoder")
    page = report.write_report(run, None).read_text()
    told = f"pectrum and patch tokens are not drawn: {gone} does not exist"
    assert f"S{told}" in page and f"s{told}" in capsys.readouterr().err
    assert page.count("<svg role=") == 1 and "zero-shot accuracy" in page
    with pytest.raises(UserError, match="does not exist"):
        report.write_report(run, gone)


def test_held_out_captions_are_of_val_before_the_test_split(tmp_path):
    for name in ("other-000000.tar", "testdev-000000.tar", "train-000000.tar"):
        (tmp_path / name).touch()
    assert report.held_out_source(str(tmp_path)) == str(tmp_path / "other-000000.tar")
    for name in ("val-000001.tar", "val-000000.tar"):
        (tmp_path / name).touch()
    assert report.held_out_source(str(tmp_path)) == str(tmp_path / "val-000000.tar")
    (tmp_path / "one").mkdir()
    (tmp_path / "one/train-000000.tar").touch()
    assert report.held_out_source(str(tmp_path / "one")) == str(tmp_path / "one")
