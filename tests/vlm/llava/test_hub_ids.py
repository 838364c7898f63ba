"""VLMs by hub id, from the local cache."""

import os
import shutil

import commands
import pytest
from tiny import pictures
from tiny.llava import write_vlm

from vlm.apps.doctor.labels import show_labels
from vlm.apps.features import features
from vlm.apps.settings import FeaturesSettings
from vlm.errors import UserError
from vlm.llava.model import load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """HF_HOME with me/it in its cache, as the hub's client leaves it."""
    root = tmp_path_factory.mktemp("hub")
    repository = root / "home/hub/models--me--it"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    shutil.copytree(write_vlm(root), repository / "snapshots" / COMMIT)
    pictures.save(pictures.noise(30, 20), root / "photo.png")
    return root


def test_chat_and_load_take_a_hub_id_from_the_cache(cached, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(cached / "home"))
    asked = ("--image", cached / "photo.png", "--question", "Is it red?", "--max-new-tokens", "4")
    by_id = commands.output("-m", "vlm.cli", "chat", "me/it", *asked)
    by_folder = commands.output("-m", "vlm.cli", "chat", cached / "run/vlm", *asked)
    assert by_id == by_folder
    code = "import vlm; m = vlm.load('me/it'); print(m.model.config.model_type)"
    assert commands.output("-c", code).startswith("llava\n")


def test_doctor_labels_and_features_take_a_hub_id_from_the_cache(cached, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached / "home/hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    show_labels("me/it", "Is it red?", "no")
    by_id = capsys.readouterr().out
    show_labels(str(cached / "run/vlm"), "Is it red?", "no")
    assert by_id == capsys.readouterr().out and "Is it red?" in by_id
    features(FeaturesSettings("me/it", (str(cached / "photo.png"),), str(cached / "out.png"), device="cpu"))
    assert (cached / "out.png").stat().st_size > 0


def test_a_hub_id_that_is_not_cached_is_one_line_offline(cached, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(cached / "home"))
    said = commands.output("-m", "vlm.cli", "chat", "me/other", "--question", "Is it red?", expect=2)
    cause = "is no folder, is not in the local Hugging Face cache, and the hub cannot be reached"
    assert said.endswith(f"error: me/other {cause}: go online once, or give RUN/vlm of a bridge/train.py run\n")


def test_a_folder_of_the_same_name_comes_first(cached, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("me/it")
    with pytest.raises(UserError, match="me/it is not a VLM"):
        load("me/it")
