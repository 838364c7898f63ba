"""scripts/study.py: which cells a study has, that they run once, and the numbers of its table, worked out by hand."""

import os
import sys
import time
from pathlib import Path

import pytest
from study import command, lanes
from study.cells import Cell, cells
from study.settings import StudySettings, as_flags, settings_of
from study.summary import summarise
from study.tables import gain_cells, score_cells

from bridge.results import summary
from vlm.errors import UserError
from vlm.files import write_json

IMAGES = {"0": "a.jpg", "1": "a.jpg", "2": "b.jpg", "3": "b.jpg"}


def settings(*arguments) -> StudySettings:
    return settings_of("about", "examples", [str(argument) for argument in arguments])


def scored(folder: Path, right: int) -> None:
    """An evaluation that answers the first `right` of GQA's four questions, on two images, and nothing else."""
    benchmarks = {"gqa": {"partial": False, "scores": None}}
    write_json(folder / "results.json", {"summary": summary({"gqa": 25.0 * right}), "benchmarks": benchmarks})
    scores = {key: 100.0 if int(key) < right else 0.0 for key in IMAGES}
    write_json(folder / "per_question/gqa.json", {"scores": scores, "images": IMAGES})


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
    file.write_text("- a\n")
    with pytest.raises(UserError, match="holds no `name: value` lines"):
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
    with pytest.raises(UserError, match="two are named 'clip'"):
        cells(settings("--encoders", "clip", "clip"))
    with pytest.raises(UserError, match="clip is to be pretrained: say on what by --captions"):
        cells(settings("--encoders", "clip", "--gqa", "data/gqa"))


def test_a_cell_runs_once_and_a_failure_stops_only_what_needs_it(tmp_path, monkeypatch, capsys):
    for name in ("pretrain/run.py", "bridge/train.py", "bridge/evaluate.py"):
        script = tmp_path / "root" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("import sys\nif 'clip' in sys.argv: sys.exit('no room')\n"
                          f"print(*sys.argv[1:], file=open({str(tmp_path / 'calls')!r}, 'a'))\n")  # fmt: skip
    monkeypatch.setattr(lanes, "ROOT", tmp_path / "root")
    monkeypatch.setattr(command, "report", lambda settings: print("the report"))
    place = ("--gqa", "g", "--captions", "c", "--out", tmp_path / "out", "--seeds", "0", "--lanes", "2")
    study = settings("--encoders", "clip", "random:clip", "siglip", "blind", *place)
    with pytest.raises(UserError, match=r"^3 of 6 cells failed \(pretrain-clip-0: .* exit code 1: no room .*needs pre"):
        command.run(study)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("--llm" in call for call in calls) == 2 and len(calls) == 5  # siglip and its bridge, blind's
    assert capsys.readouterr().out.endswith("the report\n")
    with pytest.raises(UserError, match=r"^3 of 3 cells failed"):  # the others are done
        command.run(study)
    assert len((tmp_path / "calls").read_text().splitlines()) == 5
    command.run(settings("--encoders", "siglip", "blind", *place, "--dry-run"))
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 3 cells to run in 2 lanes"
    with pytest.raises(UserError, match="--only x: the cells are pretrain-siglip-0, bridge-siglip-smollm2-0, bridge-"):
        command.run(settings("--encoders", "siglip", "blind", *place, "--only", "x"))


def test_a_study_that_is_stopped_leaves_nothing_running(tmp_path, monkeypatch):
    script = tmp_path / "cell.py"
    script.write_text(
        "import sys, time\nopen(sys.argv[1], 'w').close()\nwhile 'long' in sys.argv[1]: time.sleep(0.05)\n"
    )
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    names = ("long", "short", "never", "nor this")
    found = [Cell(name, (("cell.py", str(tmp_path / name)),)) for name in names]

    def stop(*_):
        while not (tmp_path / "long").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "_finished", stop)
    with pytest.raises(KeyboardInterrupt):
        lanes.run_all(tmp_path / "out", found, [{}], print)
    assert not lanes._commands
    assert (tmp_path / "long").exists() and not any((tmp_path / name).exists() for name in names[1:])


def test_scores_and_gains_with_both_intervals(tmp_path):
    for seed, (ours, blind) in {0: (4, 1), 1: (2, 1)}.items():
        scored(tmp_path / f"bridge-d-smollm2-{seed}/eval", ours)
        scored(tmp_path / f"bridge-blind-smollm2-{seed}/eval", blind)
    table = summarise(settings("--encoders", "d=hf:a/b", "blind", "--out", tmp_path))
    assert score_cells(table)[1:] == [
        ["d", "0, 1", "75.0 ± 35.4", "-", "-", "75.0 ± 35.4"],
        ["blind", "0, 1", "25.0 ± 0.0", "-", "-", "25.0 ± 0.0"],
    ]
    # Gains of the seeds: 75 and 25. Of image a: (0 + 100) / 2, of b: 50, averaged over seeds; so no spread over images.
    # Over seeds: 50 -+ 12.706 * 35.355 / sqrt(2) = 317.65.
    assert gain_cells(table)[1] == ["d over blind", "+50.0 [+50.0, +50.0] s[-267.6, +367.6]", "-", "-",
                                    "+50.0 s[-267.6, +367.6]"]  # fmt: skip


def test_every_cell_is_a_job_after_those_it_needs(tmp_path, monkeypatch, capsys):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nn=$(cat {tmp_path}/n 2>/dev/null || echo 10)\necho $((n + 1)) > {tmp_path}/n\n'
                      f'for a in "$@"; do echo "$a"; done >> {tmp_path}/jobs\necho $n\n')  # fmt: skip
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = ("--gqa", "g", "--captions", "c", "--out", tmp_path / "out", "--seeds", "0")
    command.run(settings("--encoders", "clip", "blind", *place, "--slurm", "sbatch --gres=gpu:1"))
    assert capsys.readouterr().out.splitlines() == [
        "pretrain-clip-0: job 10", "bridge-clip-smollm2-0: job 11", "bridge-blind-smollm2-0: job 12",
        "report: job 13; call this again for jobs that failed",
    ]  # fmt: skip
    jobs = (tmp_path / "jobs").read_text().splitlines()
    assert [line for line in jobs if "dependency" in line] == [
        "--dependency=afterok:10",
        "--dependency=afterany:10:11:12",
    ]
    wrapped = [line for line in jobs if line.startswith("--wrap=")]
    assert wrapped[1].startswith(f"--wrap={sys.executable} ") and wrapped[1].endswith("--only bridge-clip-smollm2-0")
    assert "--encoders clip blind --seeds 0" in wrapped[1] and "--slurm" not in wrapped[1]
    with pytest.raises(UserError, match="--slurm nothing: there is no nothing here"):
        command.run(settings("--encoders", "clip", *place, "--slurm", "nothing"))
