"""An evaluation into a folder that holds one: it goes on, is refused, or starts anew."""

import shutil

import pytest
import torch
from evaluating import ALL, here, predictions, untimed
from transformers import AutoModelForImageTextToText

from bridge import evaluate, results
from bridge.evaluation.decode import Decoder
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl
from vlm.run.folder import locked


def test_resuming_after_a_kill_gives_the_same_bytes(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    out = tmp_path / "eval"
    shutil.copytree(evaluated, out)
    lines = (evaluated / "predictions/pope.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions/pope.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:30])
    (out / "predictions/vqav2.jsonl").unlink()
    (out / "results.json").unlink()
    report = here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "5")
    assert predictions(out) == predictions(evaluated)
    assert untimed(report) == untimed(read_json(evaluated / "results.json"))
    assert [entry["answered_now"] for entry in report["benchmarks"].values()] == [0, 3, 8]


def test_results_never_go_into_the_vlm_or_in_the_place_of_a_baseline(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    folder = shutil.copytree(tiny_vlm, tmp_path / "vlm")
    for out in (folder, folder / "eval"):
        with pytest.raises(UserError, match="vlm, which could not be loaded any more: give another --out"):
            here(monkeypatch, folder, world, out, "--max-new-tokens", "5")
    before = (evaluated / "results.json").read_bytes()
    with pytest.raises(UserError, match=r"--baseline seeing=.* is --out itself, which is written anew"):
        here(monkeypatch, tiny_vlm, world, evaluated, "--blind", "--overwrite", "--baseline", f"seeing={evaluated}")
    assert (evaluated / "results.json").read_bytes() == before


def test_a_device_without_memory_is_one_line_and_the_same_command_goes_on(
    monkeypatch, world, tiny_vlm, evaluated, tmp_path
):
    decode, calls = Decoder.decode, []

    def run_out(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more.")
        return decode(self, *arguments)

    monkeypatch.setattr(Decoder, "decode", run_out)
    told = (
        r"^out of memory while about 64 questions were answered together \(CUDA out of memory. Tried to allocate 2.00 "
    )
    with pytest.raises(
        UserError, match=told + r"GiB\): close .* goes on; --overwrite --batch-questions 32 starts anew$"
    ):
        here(monkeypatch, tiny_vlm, world, tmp_path, "--max-new-tokens", "5")
    report = here(monkeypatch, tiny_vlm, world, tmp_path, "--max-new-tokens", "5")
    assert report["benchmarks"]["gqa"]["answered_now"] == 0
    assert predictions(tmp_path) == predictions(evaluated)
    with monkeypatch.context() as full:
        calls[:] = [None]
        full.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: run_out(None))
        with pytest.raises(UserError, match=r"^out of memory while .* was loaded \(.*--load-in"):
            here(monkeypatch, tiny_vlm, world, tmp_path, "--max-new-tokens", "5", "--overwrite")
    assert predictions(tmp_path) == predictions(evaluated)  # not given up for a model that does not fit


def test_a_quantised_model_is_not_asked_on_another_device_than_is_named(monkeypatch, world, tiny_vlm, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="--load-in puts the model on the GPU: leave out --device cpu, or --load-in"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "eval", "--device", "cpu", "--load-in", "4bit")
    assert not (tmp_path / "eval").exists()


def test_another_model_is_refused_and_overwrite_starts_anew(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    out = tmp_path / "eval"
    shutil.copytree(evaluated, out)
    with pytest.raises(UserError, match=r"another run .it differs in: max_new_tokens"):
        here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "6")
    with pytest.raises(UserError, match=r"another run .it differs in: dtype"):
        here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "5", "--precision", "bf16")
    other = tmp_path / "other"
    shutil.copytree(tiny_vlm, other)
    (other / "generation_config.json").write_text((other / "generation_config.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"another run .it differs in: model"):
        here(monkeypatch, other, world, out, "--max-new-tokens", "5")
    assert predictions(out) == predictions(evaluated)
    report = here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "6", "--overwrite")
    assert report["benchmarks"]["pope"]["answered_now"] == 12


def test_scores_of_answers_that_are_given_up_go_first(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    out, real = tmp_path / "eval", evaluate._score
    shutil.copytree(evaluated, out)

    def killed(benchmark, *arguments):
        if benchmark.name == "vqav2":
            raise KeyboardInterrupt
        return real(benchmark, *arguments)

    given = ("--max-new-tokens", "5", "--overwrite")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "_score", killed)
        here(monkeypatch, tiny_vlm, world, out, *given, benchmarks=["gqa", "vqav2"])
    assert list(read_json(out / "results.json")["benchmarks"]) == ["pope"]  # which was not asked for
    report = here(monkeypatch, tiny_vlm, world, out, *given[:2])
    assert untimed(report) == untimed(read_json(evaluated / "results.json"))


def test_benchmarks_one_after_the_other_share_a_results_file(monkeypatch, capsys, world, tiny_vlm, evaluated, tmp_path):
    whole, given = read_json(evaluated / "results.json"), ("--max-new-tokens", "5")
    here(monkeypatch, tiny_vlm, world, tmp_path, *given, benchmarks=["pope"])
    report = here(monkeypatch, tiny_vlm, world, tmp_path, *given, benchmarks=["gqa"])
    assert list(report["benchmarks"]) == ["gqa", "pope"]
    for name in ("gqa", "pope"):
        assert report["benchmarks"][name]["scores"] == whole["benchmarks"][name]["scores"]
        assert report["summary"][name] == whole["summary"][name]
    assert report["summary"]["mean"] == results.summary(report["summary"] | {"vqav2": None})["mean"]
    assert "per question type" not in (tmp_path / "details.txt").read_text()
    assert "of another run" not in capsys.readouterr().err
    # scored in another mode they do not belong into one table
    report = here(monkeypatch, tiny_vlm, world, tmp_path, *given, "--mode", "lmms", benchmarks=["vqav2"])
    assert list(report["benchmarks"]) == ["vqav2"]
    said = {line["question_id"]: line["answer"] for line in read_jsonl(tmp_path / "predictions/vqav2.jsonl")}
    submitted = read_json(tmp_path / "vqav2_val2014_results.json")  # not in LLaVA's form
    assert {str(row["question_id"]): row["answer"] for row in submitted} == said
    assert "held scores of another run (GQA, POPE; mode differ): replaced" in capsys.readouterr().err


def test_overwrite_discards_what_is_asked_once_the_model_is_there(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "eval")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_vlm, broken)
    (broken / "model.safetensors").write_bytes(b"short")
    flags = ("--max-new-tokens", "6", "--overwrite")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or not what was written"):
        here(monkeypatch, broken, world, tmp_path / "eval", *flags)
    assert predictions(tmp_path / "eval") == predictions(evaluated)
    report = here(monkeypatch, tiny_vlm, world, tmp_path / "eval", *flags, benchmarks=["gqa"])
    assert report["benchmarks"]["gqa"]["answered_now"] == 5
    before, after = predictions(evaluated), predictions(tmp_path / "eval")
    assert {name for name in ALL if before[name] != after[name]} <= {"gqa"}


def test_what_batches_and_shown_images_depend_on_is_part_of_the_origin(
    monkeypatch, world, tiny_vlm, evaluated, tmp_path
):
    shutil.copytree(evaluated, tmp_path / "eval")
    with pytest.raises(UserError, match=r"another run .it differs in: batch_questions\)"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "eval", "--max-new-tokens", "5", "--batch-questions", "3")
    shuffled = ("--max-new-tokens", "5", "--shuffle-images")
    here(monkeypatch, tiny_vlm, world, tmp_path / "shuffled", *shuffled, "--limit-images", "2", benchmarks=["gqa"])
    with pytest.raises(UserError, match=r"another run .it differs in: shown\)"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "shuffled", *shuffled, benchmarks=["gqa"])


def test_what_cannot_be_shuffled_is_said_before_answers_are_given_up(monkeypatch, world, tiny_vlm, tmp_path):
    one = ("--max-new-tokens", "5", "--limit-images", "1")
    here(monkeypatch, tiny_vlm, world, tmp_path, *one, benchmarks=["gqa"])
    before = (tmp_path / "predictions/gqa.jsonl").read_bytes()
    with pytest.raises(UserError, match="shuffling needs at least two images"):
        here(monkeypatch, tiny_vlm, world, tmp_path, *one, "--overwrite", "--shuffle-images", benchmarks=["gqa"])
    assert (tmp_path / "predictions/gqa.jsonl").read_bytes() == before and (tmp_path / "results.json").is_file()


def test_one_evaluation_writes_to_a_folder_at_a_time(monkeypatch, world, tiny_vlm, tmp_path):
    with locked(tmp_path / "eval"), pytest.raises(UserError, match=r"another run is writing to .*eval"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "eval")
