"""What each row of a study is made of: its ViT, what the encoder was pretrained for, how long the connector trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.folder import METRICS
from vlm.encoders.naming import parse_encoder
from vlm.files import read_json, read_jsonl
from vlm.run.folder import DONE

HEADS = ("ViT", "image", "pretraining", "connector")
Budget = dict[str, str]  # head -> words


def budget(run: Path) -> Budget:
    """The words of one run of bridge/train.py; {} if it is none. A second stage names the first's steps as well."""
    config, vision = _read(run / "config.json"), _read(run / "vlm/config.json").get("vision_config", {})
    if not config or "patch_size" not in vision:
        return {}
    stages = [_stage(run, config)]
    while config.get("init"):
        run = _here(config["init"], run, config).parent
        config = _read(run / "config.json")
        stages.insert(0, _stage(run, config))
    side, layers, width = vision["image_size"], vision["num_hidden_layers"], vision["hidden_size"]
    tokens = (side // vision["patch_size"]) ** 2
    words = (f"{layers} layers, {width} wide", f"{side} px, {tokens} patch tokens", _pretraining(run, config))
    return dict(zip(HEADS, (*words, ", then ".join(stages)), strict=True))


def _read(file: Path) -> Mapping[str, Any]:
    found = read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _here(path: str, run: Path, config: Mapping[str, Any]) -> Path:
    """Where a path in `run`'s settings is now: the study's folder, which it may be in, may have been moved."""
    before = Path(config.get("out") or run).parent
    return run.parent / Path(path).relative_to(before) if Path(path).is_relative_to(before) else Path(path)


def _stage(run: Path, config: Mapping[str, Any]) -> str:
    """ "650 steps of 8 questions, LoRA 8", as the run was; "not known" of one that is gone."""
    steps = _read(run / DONE).get("step")
    if steps is None:
        return "not known"
    first = next(read_jsonl(run / METRICS), {}) if (run / METRICS).is_file() else {}
    batch = f" of {first['questions']} questions" if "questions" in first else ""
    return f"{steps:,} steps{batch}" + (f", LoRA {config['lora']}" if config.get("lora") else "")


def _pretraining(run: Path, config: Mapping[str, Any]) -> str:
    """Of a LeVLJEPA folder here what its config.json says; of others their name. Nothing was seen by the controls."""
    if not config.get("encoder"):
        return "not known"
    named = parse_encoder(config["encoder"])
    if named.kind == "blind" or named.random:
        return "none"
    place = _here(named.place, run, config)
    training = _read(place / "config.json").get("training", {}) if named.kind == "levljepa" else {}
    if not {"objective", "steps", "batch_size"} <= training.keys():
        return f"not known ({named.path.name if named.path else named})"
    return f"{training['objective']}, {training['steps']:,} steps of {training['batch_size']}"
