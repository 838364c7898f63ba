"""By which content a saved VLM is known again. Apart from folder.py, so that a command can ask before torch loads."""

import hashlib
from pathlib import Path

from vlm.files import file_sha256


def content_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a VLM's files: settings, template and weights, but not its card."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
