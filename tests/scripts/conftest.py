"""One small world for all tests of the scripts, made once; and encoders to probe on it."""

from pathlib import Path

import pytest
from tiny.encoders import text_encoder

WORLD = {"scenes": 60, "seed": 5, "qa_scenes": 20}


@pytest.fixture(scope="session")
def world_arguments():
    return dict(WORLD)


@pytest.fixture(scope="session")
def world_root(tmp_path_factory):
    from world.making import make

    out = tmp_path_factory.mktemp("made") / "world"
    make(out, **WORLD)
    return out


@pytest.fixture
def make_encoder():
    """Saves an encoder of the world's picture size in the folder it is given."""
    sizes = {"image_size": 48, "patch_size": 24, "vision_width": 8, "vision_heads": 1, "text_width": 8, "embed_dim": 4}

    def make(folder: Path) -> None:
        text_encoder(["a red star"], **sizes).save(folder)

    return make
