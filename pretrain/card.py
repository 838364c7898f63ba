"""The model card of RUN/encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pretrain.config import PretrainConfig
from vlm.cards.card import encoder_about, encoder_use, make_card, write_card
from vlm.cards.licences import encoder_part, public_name
from vlm.hub import is_hub_id
from vlm.run.settings import trajectory


def write_encoder_card(folder: Path, config: PretrainConfig, data: str) -> None:
    """Write RUN/encoder/README.md. data: fingerprint of the image-caption pairs."""
    sizes = {
        "patch_size": config.patch_size,
        "embed_dim": config.vision_width,
        "depth": config.vision_layers,
        "num_heads": config.vision_heads,
    }
    # Two runs of the same settings give the same card: neither their folder nor the time is in it.
    title = f"{config.objective}-vit-{config.vision_layers}x{config.vision_width}-patch{config.patch_size}"
    on_hub = [config.data] if is_hub_id(config.data) and not Path(config.data).exists() else None
    # What --init had brought along stays in the weights; the folder's config.json says which licence that is.
    parts = []
    if config.init:
        parts = [replace(encoder_part(str(folder)), role="started from", name=public_name(config.init))]
    card = make_card(
        title, encoder_about(config.objective),
        encoder_use("vit_base_patch16_224", config.image_size, sizes), parts,
        {f"image-caption pairs ({public_name(config.data)})": data}, trajectory(config),
        pipeline_tag="image-feature-extraction", library_name="levlm", tags=["levljepa"], datasets=on_hub,
    )  # fmt: skip
    write_card(card, folder)
