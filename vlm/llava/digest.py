"""By which content a saved VLM is known again. Apart from folder.py, so that a command can ask before torch loads."""

import hashlib
from pathlib import Path

from vlm.files import encoded
from vlm.integrity import MANIFEST, hashed


def content_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a VLM's files: settings, template and weights, but not its card."""
    digest, kinds = hashlib.sha256(), (".json", ".safetensors", ".jinja")
    names = sorted(path.name for path in folder.iterdir() if path.suffix in kinds and path.name != MANIFEST)
    for name, (_, content) in hashed(folder, names).items():
        digest.update(encoded(f"{name} {content}\n"))
    return digest.hexdigest()
