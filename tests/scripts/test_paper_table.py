"""scripts/paper_table.py on invented runs, with numbers worked out by hand."""

import json
import sys
from pathlib import Path

import paper_table
import pytest
from huggingface_hub import file_download
from matplotlib.figure import Figure
from PIL import Image
from study.paper.output import draw

from bridge.results import summary
from vlm.errors import UserError
from vlm.files import write_json

QUESTIONS = {"gqa": 4, "vqav2": 4, "pope": 4}
IMAGES = {"0": "a.jpg", "1": "a.jpg", "2": "b.jpg", "3": "b.jpg"}


def make_encoder(folder: Path, objective: str, steps: int = 100) -> Path:
    sizes = {"architecture": "vit_patch16_224", "hidden_size": 768}
    training = {"objective": objective, "steps": steps}
    write_json(folder / "config.json", {"vision_encoder": sizes, "normalization": {}, "training": training})
    return folder


def make_run(folder: Path, encoder: str, right: int, llm: str = "llama", seed: int = 0, **changes) -> Path:
    """A run that answers the first `right` of four questions of each benchmark, on two images."""
    config = {"llm": llm, "encoder": encoder, "seed": seed, "gqa": "gqa", "lr": 1e-3, "lora": 0, "init": None}
    write_json(folder / "config.json", {**config, "out": str(folder), **changes})
    scores = {key: 100.0 if int(key) < right else 0.0 for key in IMAGES}
    report = {"mode": "official", "sees": "images", "max_new_tokens": 16, "limit_images": None}
    report["benchmarks"] = {name: {"partial": False} for name in QUESTIONS}
    report["summary"] = summary({name: 25.0 * right for name in QUESTIONS})
    write_json(folder / "eval/results.json", report)
    for name in QUESTIONS:
        write_json(folder / f"eval/per_question/{name}.json", {"scores": scores, "images": IMAGES})
    return folder


@pytest.fixture
def encoders(tmp_path) -> dict[str, str]:
    return {name: str(make_encoder(tmp_path / name, name)) for name in ("levljepa", "clip", "siglip")}


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *map(str, arguments)])
    paper_table.main()


def test_seeds_intervals_and_cells_without_runs(monkeypatch, capsys, encoders, tmp_path, full_disk):
    ours, clip = encoders["levljepa"], encoders["clip"]
    made = [
        make_run(tmp_path / "r0", f"random:{ours}", 1),
        make_run(tmp_path / "r1", f"random:{ours}", 0, seed=1),
        make_run(tmp_path / "l0", ours, 4),
        make_run(tmp_path / "l1", ours, 2, seed=1),
        make_run(tmp_path / "c0", clip, 2),  # paired with the same random run: its ViT is the same
        make_run(tmp_path / "blind", "blind", 3),
    ]
    out = tmp_path / "out"
    run(monkeypatch, *made, "--out", out, "--paper")
    text = (out / "paper_table.md").read_text()
    assert text.splitlines()[:3] == [
        "| LLM | benchmark | LeVLJEPA | paper | CLIP | paper | SigLIP | paper |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        # LeVLJEPA: 75 and 50 points, so 62.5, deviation 25 / sqrt(2); CLIP: question 1 alone, of image a
        "| Llama-1B | GQA | +62.50 ± 17.68 (2) | +8.2 | +25.00 [+0.0, +50.0] | +6.3 | - | +6.0 |",
    ]
    assert "| Qwen-1.5B | POPE | - | +22.6 | - | +19.1 | - | +18.0 |" in text
    missing = "SigLIP with Llama-1B, LeVLJEPA with Qwen-1.5B, CLIP with Qwen-1.5B, SigLIP with Qwen-1.5B"
    assert f"No runs: {missing}." in text
    assert f"Left out: {tmp_path / 'blind'}: has no sight" in capsys.readouterr().out
    table = json.loads((out / "paper_table.json").read_text())
    cell = table["cells"][0]
    assert (cell["gain"], cell["deviation"], cell["reported"]) == (62.5, 17.68, 8.2)
    assert [(pair["seed"], pair["score"], pair["random_score"]) for pair in cell["pairs"]] == [(0, 100, 25), (1, 50, 0)]
    with Image.open(out / "paper_table.png") as picture:
        assert picture.width >= 900
    full_disk(out / "paper_table.png", lambda file: draw(table, file))


def test_pairs_need_the_same_llm_data_and_seed(monkeypatch, encoders, tmp_path):
    ours = encoders["levljepa"]
    random = make_run(tmp_path / "random", f"random:{ours}", 1)
    make_run(tmp_path / "seed", ours, 2, seed=1)
    make_run(tmp_path / "data", ours, 2, gqa="other")
    make_run(tmp_path / "llm", ours, 2, llm="models/tiny")
    run(monkeypatch, *(tmp_path / name for name in ("seed", "data", "llm")), random, "--out", tmp_path / "out")
    text = (tmp_path / "out/paper_table.md").read_text()
    assert f"Not paired: {tmp_path / 'seed'}: its closest random run {random} differs in seed 1 / 0." in text
    assert f"{tmp_path / 'data'}: its closest random run {random} differs in gqa {Path('other').resolve()} / " in text
    assert f"{tmp_path / 'llm'}: no random run with tiny; train one with --encoder random:DIR." in text
    assert "| Llama-1B | GQA | - | - | - |" in text


def test_runs_that_cannot_share_a_cell(monkeypatch, encoders, tmp_path):
    ours = encoders["levljepa"]
    made = [make_run(tmp_path / "r0", f"random:{ours}", 1), make_run(tmp_path / "l0", ours, 2)]
    with pytest.raises(UserError, match="are both levljepa with Llama-1B, seed 0"):
        run(monkeypatch, *made, make_run(tmp_path / "again", ours, 3), "--out", tmp_path / "out")
    made += [
        make_run(tmp_path / "r1", f"random:{ours}", 1, seed=1, lr=2e-3),
        make_run(tmp_path / "l1", ours, 3, seed=1, lr=2e-3),
    ]
    with pytest.raises(UserError, match=r"belong to the same cell .levljepa with Llama-1B. and differ in lr 0\.002"):
        run(monkeypatch, *made, "--out", tmp_path / "out")
    write_json(tmp_path / "l0/eval/per_question/pope.json", {"scores": {"9": 0.0}, "images": {"9": "a"}})
    with pytest.raises(UserError, match=r"POPE of .*l0 and .*r0: the two results are not over the same questions"):
        run(monkeypatch, *made[:2], "--out", tmp_path / "out")


def test_encoders_trained_differently_are_named_and_partial_scores_marked(monkeypatch, encoders, tmp_path):
    ours, other = encoders["levljepa"], str(make_encoder(tmp_path / "short", "siglip", steps=50))
    made = [make_run(tmp_path / "r", f"random:{ours}", 1), make_run(tmp_path / "l", ours, 2)]
    made.append(make_run(tmp_path / "s", other, 0))
    report = json.loads((tmp_path / "l/eval/results.json").read_text())
    report["benchmarks"]["gqa"]["partial"] = True
    write_json(tmp_path / "l/eval/results.json", report)
    run(monkeypatch, *made, "--out", tmp_path / "out")
    text = (tmp_path / "out/paper_table.md").read_text()
    assert "Note: the encoders were trained with different steps: 100 (levljepa), 50 (siglip)." in text
    assert "| Llama-1B | GQA | +25.00 [+0.0, +50.0]* | - | -25.00 [-50.0, +0.0] |" in text
    assert "No runs: CLIP with Llama-1B." in text


def test_what_two_vits_differ_in_is_named_and_gains_of_zero_are_drawn_at_a_scale(monkeypatch, encoders, tmp_path):
    wide = make_encoder(tmp_path / "wide", "clip")
    config = json.loads((wide / "config.json").read_text())
    config["vision_encoder"]["hidden_size"] = 192
    write_json(wide / "config.json", config)
    made = [
        make_run(tmp_path / "r", f"random:{encoders['levljepa']}", 2),
        make_run(tmp_path / "l", encoders["levljepa"], 2),
    ]
    made.append(make_run(tmp_path / "w", str(wide), 2))
    limits = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, format: limits.append(figure.axes[0].get_ylim()))
    run(monkeypatch, *made, "--out", tmp_path / "out")
    assert (
        f"{tmp_path / 'r'} differs in the ViT's hidden_size 192 / 768." in (tmp_path / "out/paper_table.md").read_text()
    )
    assert limits == [(-1, 1)]


def test_nothing_to_show(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"none of the 1 folders has a place in the table .*it has no config\.json"):
        run(monkeypatch, tmp_path, "--out", tmp_path / "out")
    moved = make_run(tmp_path / "l", str(tmp_path / "gone"), 2)
    with pytest.raises(UserError, match=r"its encoder .*gone is not here"):
        run(monkeypatch, moved, "--out", tmp_path / "out")


def test_an_encoder_by_hub_id_is_read_from_the_cache_or_its_run_left_out(monkeypatch, capsys, encoders, tmp_path):
    snapshot = tmp_path / "hub/models--me--clip/snapshots/abc"
    make_encoder(snapshot, "clip")
    (tmp_path / "hub/models--me--clip/refs").mkdir()
    (tmp_path / "hub/models--me--clip/refs/main").write_text("abc")
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    made = [make_run(tmp_path / "r", f"random:{encoders['levljepa']}", 1), make_run(tmp_path / "c", "me/clip", 3)]
    made.append(make_run(tmp_path / "far", "org/LeVLJEPA", 4))
    write_json(tmp_path / "other/config.json", {"hidden_size": 8})
    made.append(make_run(tmp_path / "o", str(tmp_path / "other"), 4))
    run(monkeypatch, *made, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert f"Left out: {tmp_path / 'far'}: its encoder org/LeVLJEPA is not in the hub's cache: run this" in said
    assert f"Left out: {tmp_path / 'o'}: its encoder {tmp_path / 'other'} is no LeVLJEPA encoder" in said
    cells = json.loads((tmp_path / "out/paper_table.json").read_text())["cells"]
    assert [(cell["objective"], cell["gain"]) for cell in cells[:3]] == [
        ("levljepa", None), ("clip", 50.0), ("siglip", None),
    ]  # fmt: skip


def test_other_folders_are_left_out_and_the_quickstarts_layout_is_known(monkeypatch, capsys, encoders, tmp_path):
    """OUT/pretrain has a config.json as well; the scores of OUT/bridge/NAME lie in OUT/eval/NAME."""
    write_json(tmp_path / "out/pretrain/config.json", {"objective": "levljepa", "seed": 0})
    for name, encoder, right in (("pretrained", "", 4), ("random", "random:", 1)):
        made = make_run(tmp_path / "out/bridge" / name, encoder + encoders["levljepa"], right)
        (tmp_path / "out/eval").mkdir(exist_ok=True)
        (made / "eval").rename(tmp_path / "out/eval" / name)
    runs = [tmp_path / "out/pretrain", *sorted((tmp_path / "out/bridge").iterdir())]
    run(monkeypatch, *runs, "--out", tmp_path / "table")
    assert f"Left out: {runs[0]}: is no run of bridge/train.py: its config" in capsys.readouterr().out
    cell = json.loads((tmp_path / "table/paper_table.json").read_text())["cells"][0]
    assert (cell["benchmark"], cell["gain"]) == ("gqa", 75.0)
