"""Tiny LLaVA models: stock ones from a config, and a saved VLM of this project."""

from pathlib import Path

from transformers import LlavaConfig, PretrainedConfig, ViTConfig

from tiny.encoders import encoder_config
from tiny.llms import letters, write_chatml_llama
from vlm.encoders.levljepa import new_encoder
from vlm.llava.assembly import assemble
from vlm.llms.load import load_llm


def stock_config(text: PretrainedConfig, image_token: int, vision: dict, **options) -> LlavaConfig:
    """Stock LLaVA's config around a ViT that gives its last layer's tokens without CLS: 4 of 8 x 8 pixels.

    vision: sizes of the ViT that replace the smallest ones; options: of `LlavaConfig`.
    """
    smallest = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return LlavaConfig(
        vision_config=ViTConfig(**{**smallest, "image_size": 8, "patch_size": 4, **vision}),
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        **options,
    )


def write_vlm(root: Path) -> Path:
    """A saved VLM folder: a random 2-layer Llama with a token a byte behind a random ViT with 16 image tokens."""
    encoder = new_encoder(encoder_config(image_size=24, patch_size=6), seed=0).eval().requires_grad_(False)
    llm = write_chatml_llama(root / "llm", letters(), initializer_range=0.3)
    vlm = assemble(encoder, load_llm(str(llm)))
    for weight in vlm.connector.parameters():  # large enough for the picture to change answers
        weight.data.mul_(20)
    vlm.save(root / "run/vlm")
    return root / "run/vlm"
