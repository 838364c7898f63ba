"""`vlm doctor`, run through the command."""

import json
import shutil

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from tiny.encoders import text_encoder
from tiny.pictures import encoded, noise
from tiny.tars import write_coloured_shards

from vlm.apps.doctor import environment
from vlm.apps.doctor.runs import findings as run_findings
from vlm.files import append_jsonl, write_json
from vlm.integrity import hashed, write_manifest


def lines_of(out: str) -> dict[str, tuple[str, str]]:
    """name -> (level, text) of the last line with that name."""
    found = {}
    for line in out.splitlines():
        level, rest = line.split(maxsplit=1)
        name, text = rest.split(": ", 1)
        found[name] = (level, text)
    return found


def test_a_vlm_is_well(run, folder):
    code, out, _ = run("doctor", folder)
    found = lines_of(out)
    assert code == 0
    checks = ["vision tower", "chat template", "labels", "generation", "connector", "image"]
    assert list(found) == ["files", "folder", *checks]
    assert {level for level, _ in found.values()} == {"OK"}
    assert found["vision tower"][1].startswith("gives the encoder's features (relative error ")
    assert "tokens, 9 of them the image; the answer follows it" in found["chat template"][1]
    assert found["generation"][1] == "stops at '<|im_end|>', which ends a turn"
    assert "[[red<|im_end|>]] has 2 supervised tokens" in found["labels"][1]


def test_labels_shows_the_supervised_tokens(run, folder):
    code, out, _ = run("doctor", "labels", folder, "--question", "Is it a star?", "--answer", "no")
    assert code == 0
    assert "<9 image slots>\nIs it a star?\nAnswer the question" in out
    assert "<|im_start|>assistant\n[[no<|im_end|>]]\n" in out
    assert out.rstrip().endswith("'<|im_end|>'") and "supervised:" in out


def test_labels_without_a_folder_asks_for_one(run):
    code, out, err = run("doctor", "labels")
    assert (code, out) == (2, "")
    assert err.endswith(
        "doctor labels needs a model's folder: give labels DIR, or ./labels for a folder of that name\n"
    )


def test_a_connector_that_gives_nothing_is_told_as_json(run, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "vlm")
    weights = load_file(copy / "model.safetensors")
    silent = [name for name in weights if "multi_modal_projector.linear_2" in name]
    assert len(silent) == 2
    save_file({**weights, **{name: weights[name] * 0 for name in silent}}, copy / "model.safetensors", {"format": "pt"})
    code, out, _ = run("doctor", copy, "--json", "--accept")
    report = json.loads(out)
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert (code, report["status"], report["kind"], report["what"]) == (0, "warn", "VLM", str(copy))
    assert levels["connector"] == levels["image"] == "warn"
    assert "0 of 8 answers change without the image" in report["checks"][-1]["text"]


@pytest.mark.parametrize(
    ("edit", "name", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "folder", "cannot be loaded"),
        (lambda vlm: write_json(vlm / "generation_config.json", {"eos_token_id": 1}), "generation", "eos_token_id"),
    ],
)  # fmt: skip
def test_a_damaged_vlm_fails(run, folder, tmp_path, edit, name, message):
    copy = shutil.copytree(folder, tmp_path / "vlm")
    edit(copy)
    (copy / "levlm_manifest.json").unlink()
    code, out, _ = run("doctor", copy)
    level, text = lines_of(out)[name]
    assert (code, level) == (1, "FAIL") and message in text


@pytest.mark.parametrize("config", [{"model_type": "vit"}, {"model_type": "vipllava"}, None])  # llama.cpp's has none
def test_an_export_is_verified_by_its_manifest(run, tmp_path, config):
    export = tmp_path / "export"
    export.mkdir()
    if config:
        write_json(export / "config.json", config)
    (export / "model.safetensors").write_bytes(b"weights")
    write_manifest(export)
    code, out, _ = run("doctor", export, "--json")
    assert (code, json.loads(out)["kind"]) == (0, "export")
    assert run("doctor", export)[1] == "OK    files: are what was written, by the hashes in levlm_manifest.json\n"
    (export / "model.safetensors").write_bytes(b"wEights")
    code, out, _ = run("doctor", export)
    assert code == 1 and out == (
        f"FAIL  files: {export}/model.safetensors is missing or not what was written: copy {export} again, or make it "
        "anew by `vlm export`\n"
    )
    code, out, err = run("doctor", export, "--accept")
    if config == {"model_type": "vit"}:  # `hf:` opens it, and refuses it until the change is accepted
        assert code == 0 and out.startswith("OK    accept: 2 files recorded")
    else:
        assert (code, out) == (2, "") and f"--accept is of a VLM or an encoder, which {export} is not" in err
    assert run("doctor", export)[0] == (0 if config == {"model_type": "vit"} else 1)


def test_a_vlm_whose_config_is_torn_fails_by_its_manifest(run, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "vlm")
    (copy / "config.json").write_text("{")
    code, out, _ = run("doctor", copy)
    assert code == 1 and out.startswith(f"FAIL  files: {copy}/config.json is missing or not what was written: ")


def test_the_environment(run, monkeypatch):
    code, out, _ = run("doctor")
    found = lines_of(out)
    assert code == 0
    assert {"python", "transformers", "packages", "cpu", "compiler", "shared memory", "disk", "hub"} < found.keys()
    monkeypatch.setattr(environment, "version", lambda name: "5.17.2" if name == "transformers" else "9")
    old = lines_of("\n".join(finding.line() for finding in environment._transformers()))
    assert old["transformers"][0] == "FAIL" and "pip install 'transformers>=5.18'" in old["transformers"][1]
    monkeypatch.setattr(environment, "SHARED_MEMORY", 1 << 60)
    (shared,) = environment._shared_memory(environment.Path("/dev/shm"))
    assert shared.level == "warn" and "--shm-size=8g" in shared.text


def test_a_run_and_its_checkpoints(tmp_path):
    run = tmp_path / "run"
    text_encoder(["a red picture"]).save(run / "encoder")
    write_json(run / "config.json", {"preset": "tiny", "steps": 2})
    append_jsonl(run / "metrics.jsonl", {"step": 0, "loss": 2.0})
    append_jsonl(run / "metrics.jsonl", {"step": 1, "loss": 1.5})
    for step in (1, 2):
        folder = run / f"checkpoints/step_{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text("whole")
        manifest = {"step": step, "world_size": 1, "config": {}, "files": hashed(folder, ["weights"])}
        write_json(folder / "manifest.json", manifest)
    (run / "checkpoints/step_2/weights").write_text("wrong")
    found = [finding.line() for finding in run_findings(run)]
    assert found[:2] == ["OK    settings: preset tiny, steps 2", "OK    records: 2 up to step 1 of 2, loss 2 -> 1.5"]
    assert found[2].startswith("warn  checkpoints: ") and found[2].endswith("written: a run goes on from step 1")
    assert found[3] == "OK    checkpoints: whole by their hashes: step 1"
    assert found[4] == "OK    files: are what was written, by the hashes in levlm_manifest.json"
    assert found[5].startswith("OK    encoder: ViT of ") and found[6].startswith("OK    features: differ by ")
    assert found[-1].startswith("warn  end: there is no done.json: the run is not at its end")
    write_json(run / "done.json", {"step": 2, "result": "encoder"})
    assert [finding.line() for finding in run_findings(run)][-1] == "OK    end: done at step 2"


def test_a_step_that_broken_images_have_emptied_is_no_lost_run(tmp_path):
    write_json(tmp_path / "config.json", {"llm": "smollm2", "steps": 2})
    append_jsonl(tmp_path / "metrics.jsonl", {"step": 0, "loss": 1.5, "answer_tokens": 3})
    append_jsonl(tmp_path / "metrics.jsonl", {"step": 1, "loss": float("nan"), "answer_tokens": 0})
    lines = [finding.line() for finding in run_findings(tmp_path)]
    assert "OK    records: 2 up to step 1 of 2, loss 1.5 -> 1.5" in lines


def test_shards_and_their_faults(run, tmp_path):
    (tmp_path / "captions").mkdir()
    write_coloured_shards(tmp_path / "captions")
    code, out, _ = run("doctor", tmp_path / "captions")
    found = lines_of(out)
    assert code == 0 and found["kind"][1].startswith("WebDataset, ")
    assert " decode, " in found["images"][1]
    first = sorted((tmp_path / "captions").glob("*.tar"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-10240])  # between two members: only the end mark is missing
    code, out, _ = run("doctor", tmp_path / "captions")
    assert code == 0 and f"warn  shards: {first} has no end mark" in out
    first.write_bytes(whole[:600])  # within the first picture
    code, out, _ = run("doctor", tmp_path / "captions")
    assert code == 1 and f"FAIL  shards: {first} is damaged or cut off" in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, one of 1: git lfs pull"),
        ("a.tar", b"", "is empty, one of 1: download it again"),
        ("a.jpg", b"<html>", "none of 1 tried"),
        ("a.docx", b"x" * 2000, "nothing here is of a kind that can be read"),
        ("a.tar.part", b"x", "is unfinished, one of 1: let the download end"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_fails(run, tmp_path, name, content, message):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(content)
    code, out, _ = run("doctor", tmp_path / "d")
    assert code == 1 and message in out


def test_tables(run, tmp_path):
    rows = [{"image": {"bytes": encoded(noise(20, 10)), "path": None}, "text": "a picture"}] * 3
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    code, out, _ = run("doctor", tmp_path)
    assert code == 0
    assert f"OK    kind: 1 tables, 3 rows, columns image, text: for --data {tmp_path}" in out
    assert "text a picture" in out and "3 of 3 tried of a.parquet decode, 3 of them 20 x 10" in out


def test_images_with_texts(run, tmp_path):
    for number in range(3):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "0.txt").write_text("a dark picture")
    code, out, _ = run("doctor", tmp_path)
    assert code == 0
    assert "warn  kind: 1 of 3 images have a text of the same name" in out
    assert "OK    first sample: 0.txt: a dark picture" in out
    assert "3 of 3 tried" in out and "3 of them 20 x 10" in out


def test_a_model_of_the_hub_is_looked_at_in_its_cache(run, folder, tmp_path, monkeypatch):
    cache = tmp_path / "models--me--my-vlm"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("abc")
    (cache / "snapshots").mkdir()
    (cache / "snapshots/abc").symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, _ = run("doctor", "me/my-vlm")
    assert code == 0 and lines_of(out)["folder"][0] == "OK"
    code, _, error = run("doctor", "me/none")
    assert code == 2 and "me/none is no folder, is not in the local Hugging Face cache" in error
