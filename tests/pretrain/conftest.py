"""Captions to train on, and a tiny random encoder for the probes, in memory and on disk."""

import pytest
from tiny.encoders import text_encoder
from tiny.tars import write_coloured_shards


@pytest.fixture(scope="session")
def tiny_encoder():
    sizes = {"image_size": 48, "patch_size": 12, "vision_width": 32, "projector_width": 16}
    return text_encoder(["a red star and a blue moon"], **sizes).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def encoder_folder(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    tiny_encoder.save(folder)
    return folder


@pytest.fixture(scope="session")
def captions(tmp_path_factory):
    """40 plain pictures with their colour's name, in two shards."""
    return write_coloured_shards(tmp_path_factory.mktemp("captions"))


@pytest.fixture
def own_caches(tmp_path, monkeypatch):
    """Manifests and converted data sets of this test are kept in its own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
