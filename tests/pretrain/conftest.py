"""A tiny random encoder for the probes, in memory and on disk."""

import sys
from pathlib import Path

import pytest

from vlm.encoder import new_encoder
from vlm.encoder_config import EncoderConfig
from vlm.tokens import CaptionTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))  # the embedded world, for test data

SIZES = EncoderConfig(
    image_size=48, patch_size=12, vision_width=32, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
    text_heads=1, vocab_size=300, positions=77, embed_dim=8, projector_width=16, projector_depth=1,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_encoder():
    tokenizer = CaptionTokenizer.train(["a red star and a blue moon"], 300)
    return new_encoder(SIZES, 0, tokenizer).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def encoder_folder(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    tiny_encoder.save(folder)
    return folder
