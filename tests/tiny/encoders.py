"""Tiny LeVLJEPA encoders."""

from dataclasses import replace

import torch

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.encoders.tokens import CaptionTokenizer

SMALLEST = EncoderConfig(
    image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
    text_heads=1, vocab_size=32, positions=16, embed_dim=8, projector_width=8, projector_depth=1,
)  # fmt: skip


def encoder_config(**changes) -> EncoderConfig:
    """Four patches of 8 x 8 pixels and one layer in each tower, but for `changes`."""
    return replace(SMALLEST, **changes)


def text_encoder(captions: list[str], seed: int = 0, **changes) -> Encoder:
    """An encoder with a caption tokenizer of 300 tokens, trained on `captions`."""
    config = encoder_config(**{"vocab_size": 300, "positions": 77, **changes})
    return new_encoder(config, seed, CaptionTokenizer.train(captions, 300))


def nine_patch_encoder() -> Encoder:
    """A ViT with 9 patches behind another normalisation than CLIP's, none of its weights at a special value."""
    config = encoder_config(image_size=24, vision_width=24, vision_layers=2, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    encoder = new_encoder(config, seed=3).eval().requires_grad_(False)
    for parameter in encoder.vision.parameters():  # away from the initial zeros and ones
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return encoder
