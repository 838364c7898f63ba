"""Captions to train on, and a tiny random encoder for the probes, in memory and on disk."""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.encoders.tokens import CaptionTokenizer

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


COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 220), "grey": (128, 128, 128)}


@pytest.fixture(scope="session")
def captions(tmp_path_factory):
    """40 plain pictures with their colour's name, in two shards."""
    folder = tmp_path_factory.mktemp("captions")
    random = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
            for index in range(20):
                name = list(COLORS)[random.integers(4)]
                pixels = random.normal(COLORS[name], 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG")
                for suffix, data in (("png", picture.getvalue()), ("txt", f"a {name} picture".encode())):
                    member = tarfile.TarInfo(f"{shard}{index:05d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder
