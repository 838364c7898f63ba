"""A VLM on disk: connectors saved alone, folders that are damaged, and folders that are replaced."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vlm.encoders.levljepa import new_encoder
from vlm.errors import UserError
from vlm.llava.assembly import assemble
from vlm.llava.folder import save_connector
from vlm.llava.model import load
from vlm.llms.load import load_llm


def tower_hash(file):
    with safe_open(file, "pt") as stream:
        return stream.metadata()["vision_tower"]


def test_connectors_travel_alone(models, saved, encoder, llm_folders, tmp_path):
    file = saved / "llama/connector.safetensors"
    alone, trained = load_file(file), models["llama"].connector.state_dict()
    assert alone.keys() == trained.keys()
    assert all(value.dtype == torch.float32 and torch.equal(value, trained[name]) for name, value in alone.items())
    llm = load_llm(str(llm_folders["llama"]), torch.float32)
    for name, seed in (("same", None), ("other", 8)):
        tower = encoder if seed is None else new_encoder(encoder.config, seed=seed).eval()
        save_connector(assemble(tower, llm, seed=9).model, tmp_path / name)
    assert tower_hash(tmp_path / "same") == tower_hash(file) != tower_hash(tmp_path / "other")


def damage(folder, name, **changes):
    weights = load_file(folder / name)
    for key, change in changes.items():
        key = next(k for k in weights if k.endswith(key.replace("__", ".")))
        value = change(weights.pop(key))
        if value is not None:
            weights[key] = value
    save_file(weights, folder / name, metadata={"format": "pt"})


def truncated(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in {**config, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (truncated, r"copy/qwen2 cannot be loaded .*: copy or train it again"),
        (lambda f: damage(f, "model.safetensors", vision_tower__layernorm__bias=lambda v: v + 1), "other features"),
        (lambda f: damage(f, "model.safetensors", linear_2__bias=lambda v: None), "missing_keys.*linear_2.bias"),
        (
            lambda f: damage(f, "model.safetensors", linear_2__bias=lambda v: v[1:]),
            "weights have other shapes than its config",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").unlink(), "the processor in .* cannot be loaded"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "is not a VLM: give RUN/vlm"),
        (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
        (lambda f: damage(f, "parity.safetensors", tokens=lambda v: None), r"cannot be asked, KeyError: 'tokens'\)"),
        (lambda f: configure(f, vision_feature_layer=99), "its vision tower cannot be asked, IndexError: "),
        (lambda f: configure(f, image_seq_length=None), "has image_seq_length 576, but it must be 9: copy or train"),
        (lambda f: configure(f, image_token_id=5), "has image_token_id 5, but it must be "),
    ],
)
def test_a_folder_that_is_damaged_or_no_run_is_one_clear_line(saved, tmp_path, edit, message):
    folder = shutil.copytree(saved / "qwen2", tmp_path / "copy/qwen2")
    (folder / "levlm_manifest.json").unlink()  # as a folder of another tool, whose damage no hash shows
    edit(folder)
    with pytest.raises(UserError, match=message):
        load(folder, "cpu")


def test_saving_replaces_a_vlm_whole_and_nothing_else(models, saved, tmp_path):
    shutil.copytree(saved / "llama", tmp_path / "vlm")
    models["qwen2"].save(tmp_path / "vlm")
    assert json.loads((tmp_path / "vlm/config.json").read_text())["text_config"]["model_type"] == "qwen2"
    assert [path.name for path in tmp_path.iterdir()] == ["vlm"]
    assert (tmp_path / "vlm/connector.safetensors").stat().st_size < 20_000
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds something else than a VLM"):
        models["qwen2"].save(tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.txt"]
