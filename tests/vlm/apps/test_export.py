"""`vlm export`: what is written, that stock code reads it, what is refused, and what is pushed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import commands
import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file
from tiny.encoders import nine_patch_encoder
from tiny.llava import write_vlm
from tiny.stock_vits import write_stock_vit
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText

from vlm.apps.export import export, push
from vlm.apps.export.comparing import sample_picture as picture
from vlm.apps.settings import ExportSettings
from vlm.cards.card import encoder_about, make_card, write_card
from vlm.cards.scores import with_scores
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.llava.digest import content_digest
from vlm.llava.model import load


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "encoder"
    nine_patch_encoder().save(folder)
    return folder


def results(folder, digest: str):
    """results.json as bridge/evaluate.py writes it with a baseline."""
    entry = {"questions": 240, "images": 40, "split": "testdev", "partial": False, "headline": 44.17}
    row = {"gqa": 44.17, "vqav2": None, "pope": None, "mean": 44.17}
    report = {
        "model": "runs/a/vlm", "origin": {"model": digest}, "sees": "images", "mode": "official", "dtype": "float32",
        "benchmarks": {"gqa": entry}, "summary": row, "baselines": {"blind": {**row, "gqa": 35.42, "mean": 35.42}},
        "gains": {"blind": {"gqa": {"gain": 8.75, "low": 2.06, "high": 15.9}, "mean": {"gain": 8.75}}},
    }  # fmt: skip
    write_json(folder / "results.json", report)
    return folder


def test_a_clean_folder_has_the_stock_files_byte_by_byte_and_a_card_with_scores(vlm_folder, tmp_path, capsys):
    scores = results(tmp_path, content_digest(vlm_folder))
    export(ExportSettings(str(vlm_folder), str(tmp_path / "out"), results=str(scores)))
    assert "logits are at most 0 from the VLM's" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "levlm_manifest.json",
        "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (vlm_folder / name).read_bytes()
    card = (tmp_path / "out/README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card
    assert "name: GQA, 240 questions about 40 images" in card and "value: 44.17" in card
    assert "| blind | 35.42 | - | - | 35.42 |" in card
    assert "| gain over blind | +8.75 [+2.1, +15.9] | - | - | +8.75 |" in card
    assert load(tmp_path / "out").answer(picture(), "Is it red?") == load(vlm_folder).answer(picture(), "Is it red?")


def test_a_table_of_an_evaluation_that_was_made_again_is_no_cards(tmp_path):
    report = read_json(results(tmp_path, "d") / "results.json")
    row = {**report["summary"], "folder": str(tmp_path)}
    blind = {**row, "sees": "nothing"}
    write_json(tmp_path / "t/results.json", {"reference": "a", "rows": {"a": row, "control": blind}, "gains": {}})
    card = ModelCard("---\nmodel_name: a\n---\n# a\n")
    assert "| control (no image) | 44.17 |" in with_scores(card, str(tmp_path / "t"), "d").text
    write_json(tmp_path / "results.json", {**report, "summary": {**report["summary"], "gqa": 40.0}})
    with pytest.raises(UserError, match=r"is of another evaluation than .* holds now: make that table again"):
        with_scores(card, str(tmp_path / "t"), "d")


def test_vipllava_moves_the_last_norm_and_computes_the_same(vlm_folder, tmp_path, capsys):
    export(ExportSettings(str(vlm_folder), str(tmp_path / "out"), "vipllava"))
    assert "logits are at most 0 from the VLM's" in capsys.readouterr().out
    config = read_json(tmp_path / "out/config.json")
    assert config["model_type"] == "vipllava"
    assert config["vision_feature_layers"] == config["vision_feature_layer"] == [-1]
    assert config["vision_config"]["tie_last_hidden_states"] is False
    # What transformers 4 reads, and would replace by its defaults in silence.
    assert (
        config["text_config"]["rope_theta"]
        == read_json(vlm_folder / "config.json")["text_config"]["rope_parameters"]["rope_theta"]
    )
    assert read_json(tmp_path / "out/tokenizer_config.json")["model_input_names"] == ["input_ids", "attention_mask"]
    assert read_json(tmp_path / "out/preprocessor_config.json")["image_processor_type"] == "CLIPImageProcessor"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    stored = load_file(vlm_folder / "model.safetensors")["vision_tower.layernorm.weight"]
    assert torch.equal(model.model.multi_modal_projector.projector_layernorm.weight, stored)


def test_an_encoder_for_transformers_gives_its_patch_tokens(encoder_folder, tmp_path):
    export(ExportSettings(str(encoder_folder), str(tmp_path / "out"), "hf"))
    encoder = nine_patch_encoder()
    model = AutoModel.from_pretrained(tmp_path / "out")
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "out")(picture(), return_tensors="pt").pixel_values
    assert type(model).__name__ == "ViTModel" and not getattr(model.config, "tie_last_hidden_states", False)
    assert torch.equal(pixels[0], encoder.transform(picture()))
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).last_hidden_state[:, 1:], encoder.patch_tokens(pixels))
    assert f'AutoModel.from_pretrained("{tmp_path / "out"}")' in (tmp_path / "out/README.md").read_text()


def test_an_encoder_for_timm_gives_its_patch_tokens(encoder_folder, tmp_path):
    export(ExportSettings(str(encoder_folder), str(tmp_path / "out"), "timm"))
    encoder = nine_patch_encoder()
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        pixels = encoder.transform(picture())[None]
        torch.testing.assert_close(model.forward_features(pixels)[:, 1:], encoder.patch_tokens(pixels))
    kept = read_json(tmp_path / "out/config.json")["pretrained_cfg"]
    assert kept["mean"] == [0.5, 0.4, 0.3] and kept["crop_mode"] == "squash"
    assert "license" not in kept  # timm's own is of other weights


def test_the_card_of_an_encoder_tells_of_the_export(tmp_path, monkeypatch):
    nine_patch_encoder().save(tmp_path / "encoder")
    about = encoder_about("dino")
    write_card(make_card("dino-vit", f"{about} Mine.", "Use it.\n", [], {"pairs": "abc"}, {}), tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    export(ExportSettings("encoder", "new/my-vit", "timm"))
    card = (tmp_path / "new/my-vit/README.md").read_text()
    assert 'timm.create_model("local-dir:new/my-vit", pretrained=True)' in card  # a path that looks like a hub id
    assert "model_name: my-vit\n" in card and "\n# my-vit\n" in card and "dino-vit" not in card
    assert "A ViT, trained with a text tower that is not in here, on images and captions" in card
    assert "objective `dino`. Mine.\n" in card and "LeVLJEPA layout" not in card and "| pairs | abc |" in card


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov2_registers", "blind"])
def test_any_encoder_by_name_becomes_a_stock_class(kind, tmp_path, capsys):
    if kind != "blind":
        write_stock_vit(tmp_path / kind, kind)
    export(ExportSettings("blind" if kind == "blind" else f"hf:{tmp_path / kind}", str(tmp_path / "out"), "hf"))
    assert "loaded again, its patch tokens are within" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "timm"}, "is a VLM: give --format hf, vipllava or gguf, not timm"),
        ({"quantise": "F16"}, "--quantise is of --format gguf: give both, or leave it out"),
        ({"out": "taken"}, "taken is not empty: give a new folder, or move it away"),
        ({"results": "other"}, "holds the scores of another model (runs/a/vlm): evaluate this one"),
        ({"results": "nothing"}, "results.json does not exist"),
        ({"push": "me"}, "--push me: give OWNER/NAME"),
        ({"push": "me/it"}, "--push needs the hub, but HF_HUB_OFFLINE is set: unset it"),
        ({"private": True}, "--private is of --push"),
        ({"folder": "no/where"}, "no/where is no folder, is not in the local Hugging Face cache"),
        ({"folder": "nowhere"}, "nowhere is neither a folder nor a hub id"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(vlm_folder, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("mine")
    for name in ("other", "nothing"):
        (tmp_path / name).mkdir()
    results(tmp_path / "other", "another digest")
    settings = {"folder": str(vlm_folder), "out": "out", "format": "hf", **change}
    with pytest.raises(UserError) as raised:
        export(ExportSettings(**settings))
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_no_export_goes_into_its_source_or_takes_the_place_of_the_current_folder(encoder_folder, tmp_path, monkeypatch):
    for source in (str(encoder_folder), f"hf:{encoder_folder}"):
        with pytest.raises(UserError, match=r"encoder/timm is inside of .*encoder, .*: give a folder elsewhere"):
            export(ExportSettings(source, str(encoder_folder / "timm"), "timm"))
    assert not (encoder_folder / "timm").exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^link is a link to .*/gone, which does not exist: make that folder, or give"):
        export(ExportSettings(str(encoder_folder), "link"))
    (tmp_path / "link").unlink()
    with pytest.raises(UserError, match=r"^\. is the current folder, .*: give a new folder in it, such as new$"):
        export(ExportSettings(str(encoder_folder), "."))
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "disk")
    with pytest.raises(UserError, match=r"disk is a mount point, which cannot be replaced: give a new folder in it"):
        export(ExportSettings(str(encoder_folder), "disk"))


def test_vipllava_refuses_a_tower_that_it_would_read_otherwise(vlm_folder, tmp_path):
    config = read_json(vlm_folder / "config.json")
    other = tmp_path / "vlm"
    other.mkdir()
    for file in vlm_folder.iterdir():
        if file.name not in ("parity.safetensors", "levlm_manifest.json"):
            (other / file.name).write_bytes(file.read_bytes())
    write_json(other / "config.json", {**config, "vision_feature_layer": -2})
    with pytest.raises(UserError, match=r"this VLM has another tower .*: give --format hf"):
        export(ExportSettings(str(other), str(tmp_path / "out"), "vipllava"))


def test_an_export_that_computes_something_else_does_not_appear(vlm_folder, tmp_path, monkeypatch):
    from vlm.apps.export import huggingface

    def spoil(card, out):
        weights = load_file(out / "model.safetensors")
        weights["multi_modal_projector.linear_2.bias"] += 1
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(huggingface, "write_card", spoil)
    with pytest.raises(UserError, match="the exported model computes other logits than the VLM"):
        export(ExportSettings(str(vlm_folder), str(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that an upload of small files needs; remembers what it was asked."""

    asked: list[tuple[str, bytes]]

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, body))
        address = f"http://{self.headers['Host']}/me/it"
        answer = {"url": address, "id": "me/it", "name": "me/it", "private": True}
        if "/preupload/" in self.path:
            answer = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                for file in json.loads(body)["files"]]}  # fmt: skip
        elif "/commit/" in self.path:
            answer = {"commitUrl": f"{address}/commit/1", "commitOid": "1", "success": True}
        self._send(answer)

    def do_GET(self):
        self.asked.append((self.path, b""))
        self._send({"id": "me/it", "sha": "0" * 40, "siblings": [], "name": "me"})

    def _send(self, answer: dict):
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def test_push_uploads_the_checked_folder_and_nothing_else(encoder_folder, tmp_path, monkeypatch):
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    out = tmp_path / "out"
    arguments = ("vlm.cli", "export", encoder_folder, out, "--format", "timm", "--push", "me/it", "--private")
    said = commands.output("-m", *arguments, HF_HUB_OFFLINE="0")
    server.shutdown()
    assert "pushed to http" in said and "me/it" in said
    created = next(json.loads(body) for path, body in Hub.asked if path == "/api/repos/create")
    assert (created["organization"], created["name"]) == ("me", "it")
    committed = next(body.decode() for path, body in Hub.asked if "/commit/" in path)
    paths = sorted(json.loads(line)["value"]["path"] for line in committed.splitlines() if '"file"' in line)
    assert paths == ["README.md", "config.json", "levlm_manifest.json", "model.safetensors"]
    assert 'timm.create_model("hf-hub:me/it", pretrained=True)' in (out / "README.md").read_text()


def test_a_failed_upload_is_one_line_and_leaves_the_export(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))
    with pytest.raises(UserError) as raised:
        push(tmp_path, "me/it", private=False)
    assert str(raised.value).startswith("me/it was not pushed (")
    assert str(raised.value).endswith(f"; {tmp_path} is written: `hf upload me/it {tmp_path}` tries again")


def test_a_push_without_an_account_stops_before_any_work(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    arguments = ("vlm.cli", "export", encoder_folder, tmp_path / "out", "--push", "me/it")
    said = commands.output("-m", *arguments, HF_HUB_OFFLINE="0", expect=2)
    assert said == "error: --push needs an account on the hub: run `hf auth login`, or set HF_TOKEN\n"
    assert not (tmp_path / "out").exists()
