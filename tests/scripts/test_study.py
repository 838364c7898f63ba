"""scripts/study.py: which cells a study has, and what is said before anything runs."""

from pathlib import Path

import pytest
from studies import settings
from study import command
from study.cells import cells
from study.checks import check
from study.settings import as_flags
from tiny.llms import write_family

from vlm.errors import UserError


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
