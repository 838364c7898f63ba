"""scripts/study.py: which cells a study has, that they run once, and the numbers of its table, worked out by hand."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from study import command, lanes
from study.budgets import budget
from study.cells import cells
from study.checks import check
from study.settings import StudySettings, as_flags, settings_of
from study.summary import references, summarise
from study.tables import as_markdown, draw, gain_cells, save_picture, score_cells
from tiny.llms import write_family

from bridge.results import summary
from vlm.errors import UserError
from vlm.files import read_json, write_json

IMAGES = {"0": "a.jpg", "1": "a.jpg", "2": "b.jpg", "3": "b.jpg"}


def settings(*arguments) -> StudySettings:
    return settings_of("about", "examples", [str(argument) for argument in arguments])


def scored(folder: Path, right: int, **others: float) -> None:
    """An evaluation that answers the first `right` of GQA's four questions, on two images. others: more headlines."""
    benchmarks = {"gqa": {"partial": False, "scores": None}}
    numbers = summary({"gqa": 25.0 * right, **others})
    write_json(folder / "results.json", {"summary": numbers, "benchmarks": benchmarks, "sees": "images"})
    scores = {key: 100.0 if int(key) < right else 0.0 for key in IMAGES}
    write_json(folder / "per_question/gqa.json", {"scores": scores, "images": IMAGES})


def done(study: StudySettings) -> StudySettings:
    """Note that every cell has been run as the study says."""
    for cell in cells(study).values():
        write_json(
            Path(study.out) / f"cells/{cell.name}.json", {**lanes.made_by(Path(study.out), cell), "seconds": 1.0}
        )
    return study


def test_a_file_says_what_flags_would_and_a_flag_goes_before_it(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("encoders: [clip, blind]\nseeds: [3]\nbridge-flags: --lr 1e-3\nlimit_images: 9\nlanes: 2\n")
    found = settings(file, "--seeds", "4", "5")
    assert (found.encoders, found.seeds, found.limit_images) == (("clip", "blind"), (4, 5), 9)
    assert found.bridge_flags == "--lr 1e-3"
    typed = ["--encoders", "clip", "blind", "--seeds", "4", "5", "--limit-images=9", "--bridge-flags=--lr 1e-3"]
    assert as_flags(found) == [*typed, "--lanes=2"] and settings(*as_flags(found)).lanes == 2
    file.write_text("sedes: [1]\n")
    with pytest.raises(UserError, match="names 'sedes', which is no setting: give of bridge-flags, captions"):
        settings(file)
    for text, problem in {
        "- a": "holds no `name: value` lines",
        "seeds: [0]\nlanes: 1\nseeds: [1]": "says seeds twice: leave one",
        "limit-images: no": "limit-images is a yes or no: give what --limit-images takes",
        "out: 2026-02-30": "is no YAML: day",
    }.items():
        file.write_text(text + "\n")
        with pytest.raises(UserError, match=problem):
            settings(file)


def test_the_cells_of_a_study():
    found = cells(settings(
        *("--encoders", "clip", "d=hf:org/dino", "random:clip", "random:d", "blind", "--seeds", "7", "--out", "o"),
        *("--second-stage", "--lora 8", "--probes", "none", "--bridge-flags", "--lr 1e-3"),
    ))  # fmt: skip
    assert list(found) == [
        "pretrain-clip-7",
        *(f"bridge-{name}-smollm2-7{stage}" for name in ("clip", "d", "random-clip", "random-d", "blind")
          for stage in ("", "-second")),
    ]  # fmt: skip
    given = {name: cell.commands[0][cell.commands[0].index("--encoder") + 1] for name, cell in found.items()
             if "--encoder" in cell.commands[0]}  # fmt: skip
    assert list(given.values()) == [
        "o/pretrain-clip-7/encoder", "hf:org/dino", "random:o/pretrain-clip-7/encoder", "random:hf:org/dino", "blind",
    ]  # fmt: skip
    assert found["bridge-random-clip-smollm2-7"].needs == ("pretrain-clip-7",)
    second = found["bridge-blind-smollm2-7-second"]
    assert second.needs == ("bridge-blind-smollm2-7",) and second.commands[0][-4:] == ("--seed", "7", "--lora", "8")
    found = cells(settings("--encoders", "wide=levljepa --vision-width 192 --lr 1e-3", "--pretrain-flags=--lr 1e-4"))
    assert found["pretrain-wide-0"].commands[0][-6:] == ("--lr", "1e-4", "--vision-width", "192", "--lr", "1e-3")
    with pytest.raises(UserError, match="blind is not pretrained here, so it takes no flags"):
        cells(settings("--encoders", "b=blind --lr 1"))
    unseen = "unseen=retrieval:c/vendor-*.tar"
    found = cells(settings("--encoders", "clip", "--vqav2", "q", "--captions", "c", "--seeds", "7", "--out", "o",
                           "--probes", unseen))  # fmt: skip
    command_line = ("scripts/probe_world.py", "o/pretrain-clip-7/encoder", "--tasks", unseen, "--json")
    assert found["probes-clip-7"].commands[0] == (*command_line, "o/probes/clip-7.json")
    assert "probes-clip-7" not in cells(settings("--encoders", "clip", "--vqav2", "q", "--captions", "c"))
    found = cells(settings("--encoders", "clip", "--seeds", "7", "--out", "o", "--split", "val"))
    assert found["probes-clip-7"].commands[0] == (
        *("scripts/probe_world.py", "o/pretrain-clip-7/encoder", "runs/world", "--tasks", "zero-shot", "knn"),
        *("retrieval", "--split", "val", "--json", "o/probes/clip-7.json"),
    )
    assert "--split" not in cells(settings("--encoders", "clip", "--seeds", "7"))["probes-clip-7"].commands[0]
    with pytest.raises(UserError, match="two are named 'clip'"):
        cells(settings("--encoders", "clip", "clip"))
    with pytest.raises(UserError, match="clip is to be pretrained: say on what by --captions"):
        cells(settings("--encoders", "clip", "--gqa", "data/gqa"))


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


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--encoders", "blind", "--gqa", "data/nothing"), "--gqa: data/nothing is no folder, is not in the local Hug"),
        (("--encoders", "blind", "--vqav2", "./v"), "--vqav2: ./v is not a folder: VQAv2 needs its question files"),
        (
            ("--encoders", "blind", "--gqa", "g", "--pope", "./p"),
            "--pope: ./p is not a folder: POPE needs its question",
        ),
        (("--encoders", "clip", "--gqa", "g", "--captions", "c/*.tar"), "--captions: no file matches c/*.tar"),
        (
            ("--encoders", "clip", "--gqa", "g", "--captions", "./c"),
            "--captions: c does not exist: give a folder or glob",
        ),
        (
            ("--encoders", "clip", "--gqa", "g", "--captions", "g/no"),
            "--captions: g/no is no folder, is not in the local",
        ),
        (("--encoders", "blind", "--bridge-flags", "--conversations a.json"), "--conversations: a.json does not exist"),
        (("--encoders", "blind", "--llms", "smolm2"), "--llms: unknown language model 'smolm2': give smollm2, llama"),
        (("--encoders", "blind", "--llms", "no/llm"), "--llms: no/llm is not in the local Hugging Face cache and the"),
        (("--encoders", "blind", "--llms", "no.gguf"), "--llms: cannot read the language model no.gguf: No such file"),
        (
            ("--encoders", "g"),
            "--encoders: {here}/g has no config.json: an encoder folder has vision_encoder.safetensors",
        ),
        (("--encoders", "no/encoder"), "--encoders: no/encoder is no folder, is not in the local Hugging Face cache"),
        (("--encoders", "d=hf:./no"), "--encoders: ./no is neither a folder nor a hub id (OWNER/NAME): give hf:FOLDER"),
        (("--encoders", "blind", "d=timm:vit_tny_patch16_224"), "--encoders: timm has no model 'vit_tny_patch16_224'"),
        (("--encoders", "clip", "--pretrain-flags", "--init g"), "--init: g has no config.json: an encoder folder"),
        (("--encoders", "clip", "--probes", "u=retrieval:g/*.tar"), "--probes u: no file matches g/*.tar: check"),
        (("--encoders", "clip", "--probes", "u=knn:no/data"), "--probes u: no/data is no folder, is not in the local"),
        (
            ("--encoders", "clip", "--probes", "u=objects:no/data"),
            "--probes u: no/data is no folder: give what",
        ),
        (
            ("--encoders", "d=timm:vit_tiny_patch16_224@no.safetensors"),
            "--encoders: timm:vit_tiny_patch16_224@no.safete",
        ),
    ],
)
def test_what_is_not_there_is_said_before_anything_runs(flags, problem, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g").mkdir()
    write_family(tmp_path / "llm", "qwen2")
    given = flags if "--llms" in flags else (*flags, "--llms", "llm")
    study = settings(*given, "--dry-run", "--out", tmp_path / "out")
    with pytest.raises(UserError) as caught:
        command.run(study)
    assert str(caught.value).startswith(problem.replace("{here}", str(tmp_path)))


def test_what_is_there_or_made_by_the_study_is_not_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g").mkdir()
    write_family(tmp_path / "llm", "qwen2")
    place = ("--llms", "llm", "--out", "out", "--dry-run", "--seeds", "0", "--lanes", "2")
    encoders = ("levljepa", "random:levljepa", "t=timm:vit_tiny_patch16_224@w", "random:t")
    Path("w").touch()
    command.run(settings("--encoders", *encoders, *place))
    captions = "https://host/{00..09}.tar"
    command.run(settings("--encoders", "clip", "--gqa", "g", "--captions", captions, *place))
    assert [line for line in capsys.readouterr().out.splitlines() if " to run " in line] == [
        "6 of 6 cells to run in 2 lanes; 6 of a kind that was not run here yet: one cell by --only measures it",
        "2 of 2 cells to run in 2 lanes; 2 of a kind that was not run here yet: one cell by --only measures it",
    ]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--encoders", "levjepa"), "--encoders levjepa: give levljepa, levljepa-plus, clip, siglip, blind, random:"),
        (("--encoders", "blind", "study.yaml"), "--encoders study.yaml: put study.yaml first, before the flags"),
        (("--llms", "a/hf", "b/hf"), "--llms: two are named 'hf' in the table"),
        (("--seeds", "0", "0"), "--seeds 0 0: give each once"),
        (("--seeds", "0", str(2**64)), "--seeds 18446744073709551616: give 0 to 18446744073709551615"),
        (("--gqa", "g", "--split", "val", "--encoders", "blind"), "--split val is of the embedded world"),
        (
            ("--encoders", "a=blind", "a-b=blind", "--llms", "b-c", "c"),
            "two cells would be named bridge-a-b-c-0: give an",
        ),
        (("--bridge-flags", "--seed 5"), "--bridge-flags: --seed is nothing that a study passes on"),
        (("--pretrain-flags", "--out x"), "--pretrain-flags: --out is nothing that a study passes on"),
        (("--encoders", "a=clip --objective siglip"), "--encoders a: --objective is nothing that a study passes on"),
        (("--evaluate-flags", "--shuffle-images --mode lmms"), "--evaluate-flags: --shuffle-images is nothing that"),
        (("--pope", "p", "--encoders", "blind"), "--pope alone has nothing to train on"),
        (("--reference", "nope"), "--reference nope: give one of levljepa, random-levljepa, blind"),
        (("--bridge-flags", "--stepz 5"), "a cell's flags are refused: bridge/train.py: unrecognized arguments"),
        (("--bridge-flags", "--lr '5"), "--bridge-flags --lr '5: No closing quotation"),
        (("--pretrain-flags", "--steps -1"), "a cell's flags are refused: --steps -1: give 0 or more"),
        (("--evaluate-flags", "--mode x"), "a cell's flags are refused: bridge/evaluate.py: argument --mode"),
        (("--encoders", "clip", "--gqa", "g", "--captions", "c", "--probes", "knn"), "knn is measured on the embedded"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(flags, problem):
    study = None
    with pytest.raises(UserError) as caught:
        study = settings(*flags)
        check(study, cells(study))
    assert str(caught.value).startswith(problem)
