"""`--format hf`: a clean stock LLaVA folder with a model card."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from vlm.apps.export.comparing import compare, expected
from vlm.cards.card import make_card, read_card, vlm_use, with_section, write_card
from vlm.cards.scores import with_scores
from vlm.errors import writing
from vlm.files import read_json
from vlm.integrity import MANIFEST
from vlm.llava.digest import content_digest
from vlm.llava.model import load
from vlm.llms.precision import chosen_device, default_dtype

# What stock tools read. The connector alone and the parity fixture are of this project.
STOCK = re.compile(r"model(-\d+-of-\d+)?\.safetensors|chat_template\.jinja|.+\.json")


def write_hf(source: Path, out: Path, name: str, results: str | None) -> str:
    """Copy the stock files of a VLM byte by byte, with a card -> what the comparison found.

    name: by which users will load it. results: see `vlm.cards.scores.with_scores`.
    """
    card = vlm_card(source, name, results)
    device = chosen_device(None)
    dtype = default_dtype(device)
    wanted = expected(load(source, device, dtype))
    files = [file for file in sorted(source.iterdir()) if STOCK.fullmatch(file.name) and file.name != MANIFEST]
    with writing(out, needed=sum(file.stat().st_size for file in files)):
        for file in files:
            shutil.copyfile(file, out / file.name)
    write_card(card, out)
    return compare(out, wanted, dtype, device)


def vlm_card(source: Path, name: str, results: str | None) -> ModelCard:
    """The card of `source`, or a bare one, for an export that is loaded as `name`."""
    card = read_card(source)
    if card is None:
        config: Any = read_json(source / "config.json")
        towers = f"{config['vision_config']['model_type']} and {config['text_config']['model_type']}"
        about = f"A stock LLaVA of {towers}, connected by LeVLM."
        card = make_card(
            Path(name).name, about, vlm_use(name), [], {}, {}, library_name="transformers",
            pipeline_tag="image-text-to-text", tags=["llava"],
        )  # fmt: skip
    data: Any = card.data
    data.model_name = Path(name).name
    card = with_section(card, "Use", vlm_use(name))
    return with_scores(card, results, content_digest(source)) if results else card
