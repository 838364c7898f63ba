"""By what a model is known again: a saved VLM by its content, models of the same weights by their settings.

Apart from folder.py, so that a command can ask before torch loads.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.files import encoded
from vlm.integrity import MANIFEST, hashed

if TYPE_CHECKING:  # it takes seconds
    from transformers import PretrainedConfig

# How a config was made and stored. All else counts, so that no setting that changes numbers can be forgotten here.
BOOKKEEPING = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "quantization_config")


def content_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a VLM's files: settings, template and weights, but not its card."""
    digest, kinds = hashlib.sha256(), (".json", ".safetensors", ".jinja")
    names = sorted(path.name for path in folder.iterdir() if path.suffix in kinds and path.name != MANIFEST)
    for name, (_, content) in hashed(folder, names).items():
        digest.update(encoded(f"{name} {content}\n"))
    return digest.hexdigest()


def config_text(config: PretrainedConfig) -> str:
    """Every setting of a config and of those inside it, as one line, the same after the model was saved and loaded."""
    return json.dumps(_without_bookkeeping(config.to_diff_dict()), sort_keys=True, default=str)


def _without_bookkeeping(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(name): _without_bookkeeping(each) for name, each in value.items() if name not in BOOKKEEPING}
