"""RUN/encoder/README.md."""

import re

import pytest
import torch
from tiny.encoders import encoder_config

from pretrain.card import write_encoder_card
from pretrain.config import PretrainConfig
from vlm.cards.card import read_card
from vlm.cards.licences import encoder_part
from vlm.encoders.levljepa import new_encoder


def test_the_code_in_the_card_gives_the_patch_tokens(tmp_path, monkeypatch):
    encoder = new_encoder(encoder_config(), seed=0).eval()
    encoder.save(tmp_path / "run/encoder")
    sizes = encoder.config
    config = PretrainConfig(
        data="shards", out=str(tmp_path / "run"), image_size=sizes.image_size, patch_size=sizes.patch_size,
        vision_width=sizes.vision_width, vision_layers=sizes.vision_layers, vision_heads=sizes.vision_heads,
    )  # fmt: skip
    write_encoder_card(tmp_path / "run/encoder", config, "f00d")
    text = (tmp_path / "run/encoder/README.md").read_text()
    assert "| image-caption pairs (shards) | f00d |" in text and "pipeline_tag: image-feature-extraction" in text
    monkeypatch.chdir(tmp_path / "run/encoder")
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(names["vit"].forward_features(pixels)[:, 1:], encoder.patch_tokens(pixels))


@pytest.mark.parametrize(
    ("licence", "free"), [("cc-by-nc-4.0", False), ("none of others", True), (None, False)], ids=str
)
def test_the_licence_of_init_stays_with_what_is_trained_from_it(tmp_path, licence, free):
    training = {"init": "their/encoder", "init_sha256": "ab"} | ({"init_licence": licence} if licence else {})
    encoder = new_encoder(encoder_config(training=training), seed=0)
    encoder.save(tmp_path / "run/encoder")
    bound = licence if licence and not free else None
    assert encoder_part(str(tmp_path / "run/encoder")).licence == bound  # a milestone, which has no card
    config = PretrainConfig(data="shards", out=str(tmp_path / "run"), init="their/encoder")
    write_encoder_card(tmp_path / "run/encoder", config, "f00d")
    card, part = read_card(tmp_path / "run/encoder"), encoder_part(str(tmp_path / "run/encoder"))
    assert (card.data.license, part.licence, part.free) == (bound, bound, free)
    assert f"| started from | their/encoder | {licence or 'not known: see where it came from'} |" in card.text
