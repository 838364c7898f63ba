"""One small world for all tests of the world, made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

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
