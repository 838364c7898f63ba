"""Checkpoints whose manifest.json lies, or that hold more than it lists, are refused before anything else is opened."""

import json
import os
from hashlib import sha256

import pytest

from vlm.run.checkpoints import Checkpoints, damage

HASH = sha256(b"of step 1").hexdigest()


def checkpoint(run):
    Checkpoints(run, {"lr": 0.5}).save(1, lambda partial: (partial / "weights").write_text("of step 1"))
    return run / "checkpoints" / "step_1"


LIES = {
    "is a list": "[1]",
    "is a number": "3",
    "is torn": '{"step": 1,',
    "nests deeper than Python reads": "[" * 100_000,
    "has a number of 5,000 digits": '{"step": ' + "1" * 5000 + "}",
    "has no step": {"step": None},
    "has a step that is true": {"step": True},
    "is of another step": {"step": 2},
    "has no processes": {"world_size": 0},
    "has no settings": {"config": [1]},
    "has files that are a list": {"files": ["weights"]},
    "lists no files": {"files": {}},
    "lists a file without its size": {"files": {"weights": HASH}},
    "lists a size that is text": {"files": {"weights": ["9", HASH]}},
    "lists a size below 0": {"files": {"weights": [-9, HASH]}},
    "lists a hash that is short": {"files": {"weights": [9, HASH[:63]]}},
    "lists a hash that is a number": {"files": {"weights": [9, 9]}},
    "lists a file outside": {"files": {"weights": [9, HASH], "../../secret": [9, HASH]}},
    "lists an absolute path": {"files": {"weights": [9, HASH], "/etc/passwd": [9, HASH]}},
    "lists a name with NUL": {"files": {"weights": [9, HASH], "a\0b": [9, HASH]}},
    "lists a name that is too long": {"files": {"weights": [9, HASH], "a" * 5000: [9, HASH]}},
    "lists its folder": {"files": {"weights": [9, HASH], ".": [9, HASH]}},
    "lists a file twice": f'{{"step": 1, "world_size": 1, "config": {{}}, "files": {{"weights": [9, "{HASH}"], '
    f'"weights": [9, "{HASH}"]}}}}',
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that(lie, tmp_path):
    folder = checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "secret").write_text("of step 1")
    manifest = folder / "manifest.json"
    told = LIES[lie]
    manifest.write_text(told if isinstance(told, str) else json.dumps({**json.loads(manifest.read_text()), **told}))
    assert "manifest.json" in damage(folder)


def unlisted(folder):
    (folder / "more.pt").write_bytes(b"")
    return "more.pt is not listed in manifest.json"


def unlisted_below(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / ".hidden").write_bytes(b"")
    return "deep/.hidden is not listed in manifest.json"


def unlisted_link(folder):
    (folder / "link").symlink_to("/etc")
    return "link is not listed in manifest.json"


def unlisted_pipe(folder):
    os.mkfifo(folder / "pipe")
    return "pipe is not listed in manifest.json"


def a_pipe_for_a_file(folder):
    (folder / "weights").unlink()
    os.mkfifo(folder / "weights")
    return "weights is missing or not what was written"


def a_pipe_for_the_manifest(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    return "manifest.json is no regular file)"


@pytest.mark.parametrize(
    "harm", [unlisted, unlisted_below, unlisted_link, unlisted_pipe, a_pipe_for_a_file, a_pipe_for_the_manifest]
)
def test_a_checkpoint_with(harm, tmp_path):
    folder = checkpoint(tmp_path)
    assert damage(folder) is None
    expected = harm(folder)
    assert damage(folder).endswith(expected)
