"""The model card of RUN/vlm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bridge.config import SETS, BridgeConfig
from vlm.cards.card import make_card, read_card, vlm_use, write_card
from vlm.cards.licences import Part, card_licence, encoder_part, language_model_part, public_name
from vlm.hub import is_hub_id
from vlm.run.settings import trajectory


def write_vlm_card(folder: Path, config: BridgeConfig, data: Mapping[str, str]) -> None:
    """Write RUN/vlm/README.md. data: "questions" and "images" -> digest of their content."""
    parts = _parts(config)
    # Two runs of the same settings give the same card: neither their folder nor the time is in it.
    title = "LLaVA of " + " and ".join(part.name for part in parts)
    reads = " reads pictures through ".join(part.name for part in parts)
    about = f"A stock `LlavaForConditionalGeneration`, made by LeVLM: {reads}, by LLaVA's two-layer connector. "
    about += f"Trained: the connector{' and LoRA in the language model' if config.lora else ' alone'}."
    named = {name: getattr(config, name) for name in SETS if getattr(config, name)}
    sets = ", ".join(f"{name} ({public_name(value)})" for name, value in named.items())
    rows = {f"questions of {sets}": data["questions"]}
    rows["some of their images"] = data["images"]
    on_hub = [value for value in named.values() if is_hub_id(value) and not Path(value).exists()]
    given = {
        name: public_name(value) if isinstance(value, str) else value for name, value in trajectory(config).items()
    }
    card = make_card(
        title, about, vlm_use(".", "In this folder:"), parts, rows, given, library_name="transformers",
        pipeline_tag="image-text-to-text", tags=["llava", "vision-language"], datasets=on_hub or None,
    )  # fmt: skip
    write_card(card, folder)


def _parts(config: BridgeConfig) -> list[Part]:
    if config.init is None:
        return [language_model_part(str(config.llm)), encoder_part(str(config.encoder))]
    init = Path(config.init)
    before, licence = read_card(init) if init.is_dir() else None, card_licence(config.init)
    base = before.data.to_dict().get("base_model") if before else None
    hub_id = base[0] if isinstance(base, list) and base else base if isinstance(base, str) else None
    return [Part("earlier VLM", public_name(config.init), licence, hub_id=hub_id)]
