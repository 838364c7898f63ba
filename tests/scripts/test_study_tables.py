"""scripts/study.py: the numbers of its tables, worked out by hand, and which cells count for them."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from studies import done, scored, settings
from study import command, lanes
from study.budgets import budget
from study.summary import references, summarise
from study.tables import as_markdown, draw, gain_cells, save_picture, score_cells

from vlm.errors import UserError
from vlm.files import read_json, write_json


def test_scores_and_gains_with_both_intervals(tmp_path):
    for seed, (ours, blind) in {0: (4, 1), 1: (2, 1)}.items():
        scored(tmp_path / f"bridge-d-smollm2-{seed}/eval", ours)
        scored(tmp_path / f"bridge-blind-smollm2-{seed}/eval", blind)
    table = summarise(done(settings("--encoders", "d=hf:a/b", "blind", "--out", tmp_path)))
    assert score_cells(table)[1:] == [
        ["d", "0, 1", "75.0 ± 35.4", "-", "-", "75.0 ± 35.4"],
        ["blind", "0, 1", "25.0 ± 0.0", "-", "-", "25.0 ± 0.0"],
    ]
    # Gains of the seeds: 75 and 25. Of image a: (0 + 100) / 2, of b: 50, averaged over seeds; so no spread over images.
    # Over seeds: 50 -+ 12.706 * 35.355 / sqrt(2) = 317.65.
    gain = "+50.0 [+50.0, +50.0] s[-267.6, +367.6]"
    assert gain_cells(table)[1] == ["d over blind", gain, "-", "-", gain]


def test_the_mean_is_of_what_all_seeds_have_and_says_if_questions_are_missing(tmp_path):
    scored(tmp_path / "bridge-blind-smollm2-0/eval", 4)
    folder = tmp_path / "bridge-blind-smollm2-1/eval"
    scored(folder, 2, pope=0.0)
    report = read_json(folder / "results.json")
    report["benchmarks"]["gqa"]["partial"] = True
    write_json(folder / "results.json", report)
    table = summarise(done(settings("--encoders", "blind", "--out", tmp_path)))
    assert score_cells(table)[1:] == [["blind", "0, 1", "75.0* ± 35.4", "-", "-", "75.0* ± 35.4"]]


def test_the_table_says_what_was_asked_and_the_picture_which_encoder_a_row_is(tmp_path, full_disk):
    study = settings("--encoders", "a|b=hf:a/b", "c=hf:a/c", "blind", "--seeds", "0", "--out", tmp_path,
                     "--llms", "models/tiny", "--second-stage", "--lora 8")  # fmt: skip
    for number, name in enumerate(("a|b-tiny-0", "a|b-tiny-0-second", "c-tiny-0", "c-tiny-0-second", "blind-tiny-0")):
        folder = tmp_path / f"bridge-{name}"
        scored(folder / "eval", number)
        report = read_json(folder / "eval/results.json")
        report["benchmarks"]["gqa"] |= {"split": "val", "questions": 1234, "images": 2}
        write_json(folder / "eval/results.json", report)
    table = summarise(done(study))
    text = as_markdown(table, {"retrieval: rank_image": {"a|b": {"mean": 0.5, "sd": 0.0}}})
    assert "| a\\|b, second stage | 0 | 25.0 | - | - | 25.0 |" in text
    assert "LLM: tiny; GQA val, 1,234 questions about 2 images." in text
    assert "| retrieval: rank_image | 0.500 ± 0.000 |" in text and "rank: effective dimensions" in text
    assert list(table["rows"]) == ["a|b", "c", "blind", "a|b, second stage", "c, second stage"]
    assert list(table["gains"]) == ["a|b", "c"]  # over blind, whose second stage is not done
    figure = draw(table)
    bars = {bar.get_label(): (bar[0].get_facecolor(), bar[0].get_hatch()) for bar in figure.axes[0].containers}
    assert bars["c"][0] == bars["c, second stage"][0] != bars["a|b"][0] == bars["a|b, second stage"][0]
    assert (bars["c"][1] or "", bars["c, second stage"][1]) == ("", "///")
    heights = {label.get_text(): label.get_position()[1] for label in figure.axes[0].texts}
    assert heights["0.0"] == 1.5 and heights["25.0"] == 2.5  # over a bar that is too low for it; in its foot
    full_disk(tmp_path / "study.png", lambda file: save_picture(table, file))


def test_gains_are_over_the_twin_of_an_encoder():
    both = ("levljepa", "wide=levljepa --vision-width 192", "random:levljepa", "random:wide", "blind", "dino=hf:a/b")
    over = {"levljepa": "random-levljepa", "wide": "random-wide", "blind": "random-levljepa",
            "dino": "random-levljepa", "random-levljepa": "blind", "random-wide": "blind"}  # fmt: skip
    found = references(settings("--encoders", *both))
    assert {name: other for name, other in found.items() if "second stage" not in name} == over
    assert references(settings("--encoders", "levljepa", "random:levljepa"))["levljepa"] == "random-levljepa"
    assert set(references(settings("--encoders", *both, "--reference", "dino")).values()) == {
        "dino",
        "dino, second stage",
    }


def test_the_report_of_a_study_without_objectives_and_of_other_settings(tmp_path, capsys):
    place = ("--encoders", "d=hf:a/b", "random:d", "blind", "--seeds", "0", "--out", tmp_path)
    for number, name in enumerate(("d", "random-d", "blind")):
        scored(tmp_path / f"bridge-{name}-smollm2-0/eval", 3 - number)
        write_json(tmp_path / f"bridge-{name}-smollm2-0/config.json", {"llm": "smollm2", "encoder": "hf:a/b"})
    command.report(done(settings(*place)))
    shown = capsys.readouterr().out
    assert "d over random-d" in shown and "random-d over blind" in shown and "blind over random-d" in shown
    assert "so there is none here: none of the 3 folders has a place in the table" in shown
    assert all((tmp_path / f"study.{kind}").stat().st_size for kind in ("html", "md", "json", "png"))
    command.report(settings(*place, "--bridge-flags", "--lr 1e-3"))
    cell = "bridge-{}-smollm2-0"
    names = ", ".join(cell.format(name) for name in ("d", "random-d", "blind"))
    assert capsys.readouterr().out.splitlines() == [
        f"left out, for they were cut off, or run with other settings or models than these: {names}",
        f"nothing is scored yet; {tmp_path}/study.html and the files beside it are of before",
    ]


def test_a_gain_says_of_which_seeds_it_is_and_no_benchmark_drops_out_of_it(tmp_path):
    for seed, (ours, blind) in {0: (4, 1), 1: (2, 1)}.items():
        scored(tmp_path / f"bridge-d-smollm2-{seed}/eval", ours, pope=50.0)
        scored(tmp_path / f"bridge-blind-smollm2-{seed}/eval", blind)
    study = done(settings("--encoders", "d=hf:a/b", "blind", "--out", tmp_path))
    (tmp_path / "cells/bridge-blind-smollm2-1.json").unlink()
    table = summarise(study)
    assert table["gains"]["d"]["of_seeds"] == [0]
    assert gain_cells(table)[1][:2] == ["d over blind, seed 0 alone", "+75.0 [+50.0, +100.0]"]
    scored(tmp_path / "bridge-blind-smollm2-0/eval", 1, pope=50.0)
    with pytest.raises(
        UserError, match=r"bridge-d-smollm2-0/eval/per_question/pope\.json is missing: delete .*/eval/res"
    ):
        summarise(study)


def test_a_study_is_known_again_where_it_was_moved_and_a_changed_model_is_not(tmp_path):
    (tmp_path / "mine").mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "mine/vision_encoder.safetensors")
    place = ("--encoders", f"mine={tmp_path}/mine", "--seeds", "0", "--out")
    study = settings(*place, tmp_path / "first", "--world", tmp_path / "first-world")  # which is not moved
    scored(tmp_path / "first/bridge-mine-smollm2-0/eval", 4)
    done(study)
    shutil.move(tmp_path / "first", tmp_path / "second")
    moved = settings(*place, tmp_path / "second", "--world", tmp_path / "first-world")
    assert not summarise(replace(moved, world=str(tmp_path / "second-world")))["rows"]
    assert list(summarise(moved)["rows"]) == ["mine"]
    lanes._weights.cache_clear()
    save_file({"w": torch.ones(2)}, tmp_path / "mine/vision_encoder.safetensors")  # trained again, in its place
    assert not summarise(moved)["rows"]
    lanes._weights.cache_clear()
    (tmp_path / "mine/vision_encoder.safetensors").unlink()  # it may be the same
    assert list(summarise(moved)["rows"]) == ["mine"]
    (tmp_path / "second/cells/bridge-mine-smollm2-0.json").write_text("{")  # cut off
    assert not summarise(moved)["rows"]


def test_what_rows_are_made_of(tmp_path):
    vision = {"image_size": 64, "patch_size": 8, "num_hidden_layers": 3, "hidden_size": 128}
    training = {"objective": "clip", "steps": 5400, "batch_size": 32}
    write_json(tmp_path / "enc/config.json", {"training": training})
    before = tmp_path / "before"  # where the study was when it ran
    for name, steps, config in (
        ("first", 1700, {"encoder": f"{before}/enc", "steps": None, "lora": 0}),
        ("second", 400, {"encoder": None, "init": f"{before}/first/vlm", "lora": 8}),
        ("twin", 5, {"encoder": f"random:{before}/enc"}),
        ("dino", 5, {"encoder": "hf:org/dino"}),
    ):
        write_json(tmp_path / name / "config.json", {"out": f"{before}/{name}", **config})
        write_json(tmp_path / name / "vlm/config.json", {"vision_config": vision})
        write_json(tmp_path / name / "done.json", {"step": steps, "result": "vlm"})
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0, "questions": 8}\n{"step": 1, "questions": 7}\n')
    sizes = ("3 layers, 128 wide", "64 px, 64 patch tokens")
    learnt = "clip, 5,400 steps of 32"
    assert list(budget(tmp_path / "first").values()) == [*sizes, learnt, "1,700 steps of 8 questions"]
    both = "1,700 steps of 8 questions, then 400 steps of 8 questions, LoRA 8"
    assert list(budget(tmp_path / "second").values()) == [*sizes, learnt, both]
    assert list(budget(tmp_path / "twin").values()) == [*sizes, "none", "5 steps of 8 questions"]
    assert list(budget(tmp_path / "dino").values()) == [*sizes, "not known (hf:org/dino)", "5 steps of 8 questions"]
    assert budget(tmp_path / "enc") == {}
