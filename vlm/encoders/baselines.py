"""Baselines for a trained encoder: one that has learnt nothing, and one that sees nothing."""

from pathlib import Path

from torch import nn

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, load_encoder, new_encoder


def blind_encoder(seed: int) -> Encoder:
    """A ViT that cannot see: its patch projection is zero, so that every image gives the same 16 tokens.

    A connector trained on it learns what can be answered without looking, on the same path as with any other encoder.
    """
    config = EncoderConfig(
        image_size=48, patch_size=12, vision_width=128, vision_layers=1, vision_heads=2, text_width=8, text_layers=1,
        text_heads=1, vocab_size=1, positions=1, embed_dim=8, projector_width=8, projector_depth=1,
    )  # fmt: skip
    encoder = new_encoder(config, seed)
    nn.init.zeros_(encoder.vision.patch_embed.proj.weight)
    return encoder.eval().requires_grad_(False)


def random_encoder(name: str | Path, seed: int, heads: int | None = None) -> Encoder:
    """The architecture and pixel statistics of the encoder `name` with random weights: the paper's baseline.

    name, heads: as for `load_encoder`.
    """
    return load_encoder(name, heads=heads).with_random_weights(seed).eval().requires_grad_(False)
