"""What a training run does when the disk, the GPU, a kill or the user's own hands get in its way."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import beside_one_that_hangs
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

import bridge.folder
import bridge.loop
from bridge.config import parse_config
from bridge.data import official
from bridge.data.mixture import Mixture
from bridge.train import load_examples
from vlm.errors import UserError, run_command
from vlm.files import write_json

NO_SPACE = SafetensorError("I/O error: No space left on device (os error 28)")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more.")
ILLEGAL_ACCESS = RuntimeError("CUDA error: an illegal memory access was encountered")


def failing_from(number: int, real, error: Exception):
    """`real`, but its call `number` and all later ones raise `error`."""
    calls = []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) >= number:
            raise error
        return real(*arguments, **options)

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted(whole: Path, out: Path) -> Path:
    """A copy of a finished run, as if it was killed between its checkpoint of step 10 and its last."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "vlm")
    shutil.rmtree(out / "checkpoints/step_12")
    return out


@pytest.mark.parametrize("number", [3, 4])  # the weights and the optimizer's states of step 10
def test_a_full_disk_is_one_line_and_the_last_checkpoint_goes_on(
    training, whole, tmp_path, monkeypatch, capsys, number
):
    out = tmp_path / "out"
    monkeypatch.setattr(bridge.folder, "save_file", failing_from(number, bridge.folder.save_file, NO_SPACE))
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: training.run(out))
    assert exit.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"error: cannot write {out}/checkpoints/step_10 (No space left on device; 19,200 bytes needed, "
    )
    assert last.endswith(" bytes free): the previous checkpoint is untouched, make room and resume")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_5"]
    monkeypatch.undo()
    training.run(out, "--resume", "required")
    assert training.losses(out) == training.losses(whole)
    assert files(out / "vlm") == files(whole / "vlm")


def test_a_gpu_without_memory_is_one_line_and_the_last_checkpoint_goes_on(
    training, whole, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    monkeypatch.setattr(bridge.loop, "backward", failing_from(8, bridge.loop.backward, OUT_OF_MEMORY))
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: training.run(out))
    assert exit.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"error: out of memory in step 7 of 12 \(\d+ questions of this process in \d+ micro-batches\) "
        r"\(CUDA out of memory. Tried to allocate 2.00 GiB\): give --micro-tokens 4096 \(now 8192\) or "
        r"--gradient-checkpointing; the checkpoint of step 5 is whole, the same command goes on from there",
        last,
    )
    monkeypatch.undo()
    training.run(out, "--resume", "required", "--micro-tokens", "8000")  # what is advised may be changed
    assert training.losses(out) == training.losses(whole)
    assert files(out / "vlm") == files(whole / "vlm")


def test_a_gpu_without_memory_for_the_model_is_one_line(training, tmp_path, monkeypatch):
    def run_out(*_, **__):
        raise OUT_OF_MEMORY

    monkeypatch.setattr(bridge.loop, "build_vlm", run_out)
    with pytest.raises(UserError, match=r"^out of memory before or after the steps \(.*--load-in.*; no checkpoint was"):
        training.run(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", run_out)  # its message blames no file
    with pytest.raises(UserError, match=r"^out of memory before or after the steps"):
        training.run(tmp_path / "out")


def test_a_cuda_error_while_saving_is_not_blamed_on_the_disk(training, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge.folder, "save_file", failing_from(1, None, ILLEGAL_ACCESS))
    with pytest.raises(RuntimeError, match=r"^CUDA error: an illegal memory access was encountered$") as error:
        training.run(tmp_path / "out")
    assert error.value is ILLEGAL_ACCESS


@pytest.mark.parametrize(
    ("kind", "more", "name"),
    [(LlavaForConditionalGeneration, (), "vlm"), (PeftModel, ("--lora", "4"), "adapter")],
)
def test_a_full_disk_for_the_result_is_one_line(training, tmp_path, monkeypatch, kind, more, name):
    out = tmp_path / "out"
    monkeypatch.setattr(kind, "save_pretrained", failing_from(1, None, NO_SPACE))
    with pytest.raises(UserError, match=rf"^cannot write {out}/{name} \(No space left on device; .*make room"):
        training.run(out, *more)
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "checkpoints", "config.json", "metrics.jsonl", "tensorboard",
    ]  # fmt: skip
    monkeypatch.undo()
    training.run(out, *more)  # nothing is left to train
    assert [line["step"] for line in training.metrics(out)] == list(range(12))
    assert (out / "vlm/model.safetensors").is_file()
    assert (out / "adapter/adapter_config.json").is_file() == bool(more)


def test_a_damaged_newer_checkpoint_is_set_aside(training, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    weights = out / "checkpoints/step_12/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    training.run(out)
    told = f"passing over {out}/checkpoints/step_12: {weights} is missing or not what was written\n"
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_10", "step_12", "step_12.damaged"]
    assert training.losses(out) == training.losses(whole)
    assert files(out / "vlm") == files(whole / "vlm")


def test_records_of_a_run_killed_before_its_first_checkpoint_are_kept(training, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(bridge.loop, "update", failing_from(4, bridge.loop.update, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        training.run(out)
    monkeypatch.undo()
    killed = (out / "metrics.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in killed.splitlines()] == [0, 1, 2]
    training.run(out)
    assert (out / "metrics.old-1.jsonl").read_bytes() == killed
    assert training.losses(out) == training.losses(whole)


def test_a_result_without_checkpoints_is_not_replaced(training, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints")
    before = files(out)
    for resume in ("auto", "never"):
        with pytest.raises(UserError, match=rf"^{out} holds a .*vlm/.*: give another --out, or "):
            training.run(out, "--resume", resume)
    with pytest.raises(UserError, match=rf"^--resume required, but {out} has no checkpoint"):
        training.run(out, "--resume", "required")
    after = files(out)
    del before[".lock"], after[".lock"]  # it says which process holds the folder
    assert after == before


@pytest.fixture
def disk(training, tmp_path, monkeypatch) -> Path:
    """The current folder, with the parts and data of `training` in it."""
    shutil.copytree(training.root, tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "disk")
    return tmp_path / "disk"


def test_other_spellings_of_the_same_paths_go_on(training, whole, disk, tmp_path):
    """Each goes on at step 10 of a run that was started with absolute paths elsewhere, and ends as it did."""
    spellings = [
        {"encoder": "encoder", "llm": "llm", "gqa": "gqa", "vqav2": "vqav2"},
        {"encoder": "encoder/", "llm": "./llm/", "gqa": "gqa/", "vqav2": "../disk/vqav2"},
        {name: str(disk / name) for name in ("encoder", "llm", "gqa", "vqav2")},
    ]
    for number, spelling in enumerate(spellings):
        out = interrupted(whole, tmp_path / f"out{number}")
        flags = [word for name, path in spelling.items() for word in (f"--{name}", path)]
        training.run(out, *flags, "--resume", "required")
        assert training.losses(out) == training.losses(whole)
        assert json.loads((out / "config.json").read_text())["encoder"] == spelling["encoder"]


@pytest.mark.parametrize("encoder", ["encoder", "random:encoder"])
def test_a_run_goes_on_after_its_parts_and_data_moved(training, disk, tmp_path, encoder):
    out = tmp_path / "out"
    training.run(out, "--encoder", encoder, "--llm", "llm", "--gqa", "gqa", "--steps", "12")
    before = training.losses(out)
    interrupted(out, tmp_path / "moved")
    (disk / "disk2").mkdir()
    for name in ("encoder", "llm", "gqa"):
        shutil.move(disk / name, disk / "disk2" / name)
    flags = ("--encoder", encoder.replace("encoder", "disk2/encoder/"), "--llm", "disk2/llm", "--gqa", "disk2/gqa")
    training.run(tmp_path / "moved", *flags, "--resume", "required")
    assert training.losses(tmp_path / "moved") == before


def test_conversations_that_moved_go_on(training, disk, tmp_path):
    turns = [{"from": "human", "value": "What colour is it?"}, {"from": "gpt", "value": "red"}]
    write_json(disk / "mix.json", [{"image": f"{number}.jpg", "conversations": turns} for number in range(0, 24, 3)])

    def run(root: str) -> None:
        given = ["--llm", "llm", "--encoder", "encoder", "--out", str(tmp_path / "out"), "--steps", "2"]
        given += ["--llava", f"{root}mix.json", "--llava-images", f"{root}gqa/images", "--precision", "fp32"]
        config = parse_config(given)
        bridge.loop.train(config, load_examples(config))

    run("")
    run(f"{disk}/")
    (disk / "disk2").mkdir()
    for name in ("mix.json", "gqa"):
        shutil.move(disk / name, disk / "disk2" / name)
    run("disk2/")
    assert [line["step"] for line in training.metrics(tmp_path / "out")] == [0, 1]


def test_other_questions_or_images_under_the_same_paths_are_named(training, whole, disk, tmp_path):
    flags = ("--gqa", "gqa", "--vqav2", "vqav2")
    file = disk / "gqa/train_balanced_questions.json"
    original = file.read_text()
    file.write_text(original.replace("What colour is it?", "What color is it?", 1))
    with pytest.raises(UserError, match=r"other settings \(questions '\w{12}' -> '\w{12}'\): restore them"):
        training.run(interrupted(whole, tmp_path / "out"), *flags)
    file.write_text(original)
    os.replace(disk / "gqa/images/1.jpg", disk / "gqa/images/0.jpg")
    shutil.copy(disk / "gqa/images/2.jpg", disk / "gqa/images/1.jpg")
    with pytest.raises(UserError, match=r"other settings \(images '\w{12}' -> '\w{12}'\): restore them"):
        training.run(tmp_path / "out", *flags)


@pytest.mark.parametrize(
    ("part", "before", "now"),
    [("llm", "smollm2", "qwen"), ("encoder", "timm:test_vit", "blind"), ("encoder", "blind", "timm:test_vit2")],
)
def test_another_name_is_refused_before_anything_is_loaded(training, whole, tmp_path, monkeypatch, part, before, now):
    out = interrupted(whole, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    write_json(out / "config.json", {**config, part: before})
    monkeypatch.setattr(bridge.loop, "build_vlm", failing_from(1, None, AssertionError("it was loaded")))
    with pytest.raises(UserError, match=rf"^{out} was started with other settings \({part} '{before}' -> '{now}'\)"):
        training.run(out, f"--{part}", now)


def test_a_question_without_an_answer_is_refused_as_the_sets_are_laid_end_to_end(training):
    examples = official.gqa(training.root / "gqa", "train")
    mixture = Mixture.of([examples[:3], examples[3:5]])
    assert list(mixture.examples) == examples[:5]
    assert mixture.ends == (3, 5)
    assert mixture.sets() == [range(3), range(3, 5)]
    bad = [replace(examples[1], answer=answer) for answer in (None, "")]
    with pytest.raises(UserError, match=r"^2 training questions have no answer, the first: 0-1; train on"):
        Mixture.of([examples[:1], bad])


def test_a_rank_that_hangs_is_named_in_one_line(training, tmp_path):
    done = beside_one_that_hangs("bridge/train.py", *training.flags(tmp_path / "run", "--timeout", "0.1"))
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert [line.partition(":")[2].partition(":")[0] for line in errors] == [
        " rank 0 waited 0.1 minutes for rank 1, which hangs or is too slow"
    ]
