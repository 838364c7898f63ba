"""Is what --out holds this very run? Judged by names, settings and file headers, before anything heavy is loaded.

Nothing here imports torch. What only the loaded models and questions can tell is compared later, by digests
(`bridge.digests`).
"""

import hashlib
import json
import re
import struct
from dataclasses import fields
from pathlib import Path

from bridge.config import BridgeConfig
from vlm.encoders.naming import parse_encoder
from vlm.errors import UserError
from vlm.files import read_json
from vlm.llms.presets import PRESETS
from vlm.run.changes import Changes, refuse_changes
from vlm.run.settings import known_of, trajectory
from vlm.run.steps import check_resume, committed_steps

# Digests in a manifest, and those of them that runs of before did not have: such a run goes on without.
CONTENT = ("questions", "images", "chat_template", "llm_weights", "connector", "dtype", "model_config", "tokenizer")
NEW = ("model_config", "tokenizer")
BEGINNING = 1 << 20  # bytes of a file that is no safetensors file
TENSOR_BEGINNING = 1024  # bytes of each tensor: enough to tell two models of the same sizes apart, in no time
HINTS = {  # by the digest that differs
    "questions": "if records were only repaired, --allow-change questions goes on without those that were left out",
    "model_config": "another version of transformers may have brought other defaults: that is no other model",
    "images": "if images were only repaired, --allow-change images goes on without those that were left out",
}


def check_folder(config: BridgeConfig) -> None:
    """Refuse by a `UserError` an --out that holds something else than this run."""
    run = Path(config.out)
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file: give a folder as --out")
    check_resume(run, config.resume, max(committed_steps(run / "checkpoints"), default=None))
    if not (run / "config.json").exists():
        return
    old, new = read_json(run / "config.json"), trajectory(config)
    for declared in fields(config):
        name, known, value = declared.name, known_of(declared), getattr(config, declared.name)
        if not known.by_content or name not in old:
            continue
        is_model = known.group == "parts"
        if models_differ(old[name], value) if is_model else bool(old[name]) != bool(value):
            new[name] = value
    refuse_changes(run, {name: old.get(name) for name in new}, new, allowed_changes(config))


def allowed_changes(config: BridgeConfig) -> Changes:
    """What --allow-change names. Every rate depends on the number of steps, so that it is a change like others."""
    return Changes.of(
        config,
        {name: name for name in CONTENT},
        {"llm", "llm_weights", "encoder", "init"},
        harmless=lambda step, old, new: [name for name in NEW if name not in old],
        hints=HINTS,
    )


def models_differ(old: str | None, new: str | None) -> bool:
    """Whether two values of --llm, --encoder or --init surely name different models.

    A path may be spelled otherwise, or its folder may have moved. So two paths differ for sure only if both exist and
    hold other weights; a path and a name of the hub may be the same model.
    """
    if old == new:
        return False
    if old is None or new is None or "blind" in (old, new):
        return True
    one, other = parse_encoder(old), parse_encoder(new)  # an LLM's name has no such parts
    if (one.kind, one.random) != (other.kind, other.random):
        return True
    keys = [named.path and weights_key(named.path) for named in (one, other)]
    if all(keys):
        return keys[0] != keys[1] and not one.random  # random weights come from the seed alone
    names = [PRESETS.get(named.place, named.place) for named in (one, other) if _is_name(named.place)]
    return len(set(names)) == 2


def _is_name(value: str) -> bool:
    """Whether it is a preset, or an id of the hub or of timm, in which no path hides."""
    if value in PRESETS:
        return True
    is_file = value.endswith((".gguf", ".safetensors"))
    return re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", value) is not None and not is_file and not Path(value).exists()


def weights_key(path: Path) -> str | None:
    """A digest of a model's weights, of the file or folder `path`, however they are cut into files; None without any.

    It reads the beginning of each tensor: names, dtypes and shapes come from the headers of the safetensors files.
    """
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.sha256(f"{path.stat().st_size} ".encode() + file.read(BEGINNING)).hexdigest()
    tensors = sorted(line for file in sorted(path.glob("*.safetensors")) for line in _tensors(file))
    return hashlib.sha256("\n".join(tensors).encode()).hexdigest() if tensors else None


def _tensors(file: Path) -> list[str]:
    """A line for each tensor of a safetensors file, [] if it is damaged: loading it says so better.

    The format: 8 bytes with the length of a JSON header, the header, then the tensors at offsets that it gives.
    """
    try:
        with open(file, "rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            header = json.loads(content.read(min(length, 1 << 27)))
            lines = []
            for name, about in header.items():
                if name == "__metadata__":
                    continue
                start, end = about["data_offsets"]
                content.seek(8 + length + start)
                beginning = content.read(min(end - start, TENSOR_BEGINNING)).hex()
                lines.append(f"{name} {about['dtype']} {about['shape']} {beginning}")
            return lines
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return []
