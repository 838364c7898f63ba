"""One small world for all tests of the world, made once."""

import pytest
from make_world import make

WORLD = {"scenes": 60, "seed": 5, "qa_scenes": 20}


@pytest.fixture(scope="session")
def world_arguments():
    return dict(WORLD)


@pytest.fixture(scope="session")
def world_root(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "world"
    make(out, **WORLD)
    return out
