"""One small world for all tests of the scripts, made once; and encoders to probe on it."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny.encoders import text_encoder

from vlm.errors import UserError

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


@pytest.fixture
def full_disk(monkeypatch):
    """Draws a picture over an old one on a disk that is full: one line says so, and the old one is untouched."""

    def no_room(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def check(file: Path, draw: Callable[[Path], None]) -> None:
        file.write_bytes(b"old")
        with monkeypatch.context() as patched:
            patched.setattr("vlm.files.sync", no_room)
            with pytest.raises(UserError, match=rf"cannot write {file} \(No space left on device.*is untouched"):
                draw(file)
        assert file.read_bytes() == b"old"
        assert [path.name for path in file.parent.glob(".*.tmp")] == []
        draw(file)
        assert file.read_bytes().startswith(b"\x89PNG")

    return check
