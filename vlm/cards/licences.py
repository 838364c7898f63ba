"""Under which licences the parts of a model are, and what follows for the whole.

What is known is what a part itself says: its model card, the preset's name, timm's table, or the released layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.encoders.licence import FREE, UNKNOWN, weights_licence
from vlm.encoders.naming import parse_encoder
from vlm.files import read_json
from vlm.hub import is_hub_id
from vlm.llms.presets import PRESETS

PRESET_LICENCES = {"smollm2": "apache-2.0", "qwen": "apache-2.0", "llama": "llama3.2"}
# Licences that bind whatever holds the weights, the stricter ones first.
_BINDING = ("-nc", "llama", "gemma", "other")


@dataclass(frozen=True)
class Part:
    """An encoder or language model as a command named it.

    licence: as the hub spells it; None if nothing says it. free: weights that bring no licence of others: random ones,
    or those of a run of this project. hub_id: of the model that it came from, if it came from the hub.
    """

    role: str
    name: str
    licence: str | None = None
    free: bool = False
    hub_id: str | None = None

    def says(self) -> str:
        """The licence in words, for a table."""
        return self.licence or (FREE if self.free else UNKNOWN)


def language_model_part(name: str) -> Part:
    """name: what --llm was given."""
    if name in PRESETS:
        return Part("language model", PRESETS[name], PRESET_LICENCES[name], hub_id=PRESETS[name])
    return Part("language model", public_name(name), card_licence(name), hub_id=_hub_id(name))


def encoder_part(name: str) -> Part:
    """name: what --encoder was given."""
    named = parse_encoder(name)
    if named.kind == "blind" or named.random:
        return Part("encoder", public_name(name), free=True)
    if named.kind == "timm":
        return Part("encoder", public_name(name), _timm_licence(named.place))
    if named.kind == "hf":
        place = named.place
        return Part("encoder", public_name(place), card_licence(place), hub_id=_hub_id(place))
    said = weights_licence(_config(name))
    licence = card_licence(name) or (None if said in (FREE, UNKNOWN) else said)
    return Part("encoder", public_name(name), licence, free=licence is None and said == FREE, hub_id=_hub_id(name))


def _config(name: str) -> Mapping[str, Any]:
    """The config.json of a LeVLJEPA encoder, in a folder or the hub's cache; {} if it is in neither."""
    from huggingface_hub import try_to_load_from_cache

    file = Path(name) / "config.json"
    if not file.is_file():
        cached = try_to_load_from_cache(name, "config.json") if _hub_id(name) else None
        if not isinstance(cached, str):
            return {}
        file = Path(cached)
    found = read_json(file)
    return found if isinstance(found, dict) else {}


def of_whole(parts: Sequence[Part]) -> str | None:
    """The licence of what holds all `parts`: the one that binds most; None if it cannot be told."""
    known = [part.licence for part in parts if part.licence]
    for mark in _BINDING:
        if bound := [licence for licence in known if mark in licence]:
            return bound[0]
    if len(set(known)) != 1 or not all(part.licence or part.free for part in parts):
        return None
    return known[0]


def card_licence(name: str | Path) -> str | None:
    """What the model card of a folder, or of a hub's repository in the cache, says."""
    import yaml
    from huggingface_hub import ModelCard, try_to_load_from_cache

    card = Path(name) / "README.md"
    if not card.is_file():
        cached = try_to_load_from_cache(str(name), "README.md") if _hub_id(str(name)) else None
        if not isinstance(cached, str):
            return None
        card = Path(cached)
    try:
        data: Any = ModelCard.load(card, ignore_metadata_errors=True).data
        return data.license
    except (OSError, ValueError, yaml.YAMLError):  # a README that is no model card
        return None


def public_name(name: str) -> str:
    """A name without the folders of this machine: they say nothing elsewhere."""
    if not Path(name.rpartition(":")[2]).is_absolute():
        return name
    return "/".join(Path(name).parts[-2:])


def _hub_id(name: str) -> str | None:
    return name if is_hub_id(name) and not Path(name).exists() else None


def _timm_licence(name: str) -> str | None:
    from timm.models import get_pretrained_cfg

    model, _, file = name.partition("@")
    if file.endswith(".safetensors"):
        return None
    try:
        found = get_pretrained_cfg(model)
    except RuntimeError:
        return None
    return found.license if found else None
