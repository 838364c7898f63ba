"""What a stranger may put into a run's folder: pickles that run code, under hashes that fit."""

import hashlib
import json
import pickle
from pathlib import Path


class Touch:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pickle_into(file: Path, marker: Path) -> None:
    """Write a pickle to `file` that makes `marker` when it is loaded."""
    file.write_bytes(pickle.dumps(Touch(marker)))


def list_files(checkpoint: Path) -> None:
    """Let the manifest of a checkpoint list its files as they are now."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"] = {
        path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in checkpoint.iterdir()
        if path.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
