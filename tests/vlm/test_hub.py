"""Repositories of the hub, by its cache."""

import huggingface_hub
import pytest
from huggingface_hub import constants

from vlm import hub
from vlm.errors import UserError


def test_what_is_in_the_cache_is_not_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "snapshot", lambda repository, *rest: asked.append((repository, *rest)))
    (tmp_path / "datasets--org--vqa" / "snapshots" / "abc").mkdir(parents=True)
    hub.check_repository("org/vqa", "dataset", "give a folder")
    assert asked == []
    hub.check_repository("org/vqa", "model", "give a folder")  # a model of that name is another repository
    assert asked == [("org/vqa", [], "model", "give a folder")]


def test_what_is_nowhere_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^org/none is no folder, is not in the local Hugging Face cache"):
        hub.check_repository("org/none", "model", "give a folder")


def test_an_error_without_words_is_named(monkeypatch):
    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"^org/none cannot be downloaded \(OSError\), or give a folder"):
        hub.snapshot("org/none", [], "model", "give a folder")
