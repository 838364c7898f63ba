"""What each row of a study is made of: its ViT, what the encoder was pretrained for, how long the connector trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm.encoders.naming import parse_encoder
from vlm.files import read_json

HEADS = ("ViT", "image", "pretraining", "connector")
Budget = dict[str, str]  # head -> words


def budget(run: Path) -> Budget:
    """The words of one run of bridge/train.py; {} if it is none. A second stage names the first's steps as well."""
    config, model = _settings(run), _settings(run / "vlm")
    vision = model.get("vision_config", {})
    if not config or "patch_size" not in vision:
        return {}
    stages = [_stage(config)]
    while config.get("init"):
        config = _settings(Path(config["init"]).parent)
        stages.insert(0, _stage(config))
    side, layers, width = vision["image_size"], vision["num_hidden_layers"], vision["hidden_size"]
    tokens = (side // vision["patch_size"]) ** 2
    words = (f"{layers} layers, {width} wide", f"{side} px, {tokens} patch tokens", _pretraining(config.get("encoder")))
    return dict(zip(HEADS, (*words, ", then ".join(stage for stage in stages if stage)), strict=True))


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / "config.json"
    found = read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _stage(config: Mapping[str, Any]) -> str:
    """ "650 steps of 8 questions, LoRA 8" """
    if not config.get("steps"):
        return ""
    batch = f" of {config['batch_questions']} questions" if config.get("batch_questions") else ""
    return f"{config['steps']:,} steps{batch}" + (f", LoRA {config['lora']}" if config.get("lora") else "")


def _pretraining(encoder: str | None) -> str:
    """Of a LeVLJEPA folder here what its config.json says; of others their name. Nothing was seen by the controls."""
    if encoder is None:
        return "not known"
    named = parse_encoder(encoder)
    if named.kind == "blind" or named.random:
        return "none"
    training = _settings(Path(named.place)).get("training", {}) if named.kind == "levljepa" else {}
    if not {"objective", "steps", "batch_size"} <= training.keys():
        return f"not known ({named.path.name if named.path else encoder})"
    return f"{training['objective']}, {training['steps']:,} steps of {training['batch_size']}"
