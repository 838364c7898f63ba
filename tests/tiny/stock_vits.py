"""Tiny random Hugging Face image encoders of each class, in folders with their own image processors."""

from pathlib import Path
from typing import Any

import transformers as hf

from tiny.llms import seeded, words_of

VIT = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40,
       "image_size": 24, "patch_size": 8, "initializer_range": 0.2}  # fmt: skip
DINO = {name: value for name, value in VIT.items() if name != "intermediate_size"} | {"layerscale_value": 0.4}
TEXT = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
        "max_position_embeddings": 16, "vocab_size": 300, "initializer_range": 0.2}  # fmt: skip
CROP = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}
SQUASH = {"size": {"height": 24, "width": 24}}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def build(kind: str) -> tuple[hf.PreTrainedModel, Any]:
    """The model and the image processor of a kind; weights follow from seed 0 alone."""
    clip, siglip = hf.CLIPImageProcessor(**CROP), hf.SiglipImageProcessor(**SQUASH, **HALF)
    bit = hf.BitImageProcessor(**CROP, **IMAGENET)
    made: dict[str, tuple[Any, Any]] = {
        "clip": (lambda: hf.CLIPModel(hf.CLIPConfig(text_config=dict(TEXT, eos_token_id=2), vision_config=VIT,
                                                    projection_dim=12)), clip),
        "clip_vision": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)), clip),
        "siglip": (lambda: hf.SiglipModel(hf.SiglipConfig(text_config=dict(TEXT, projection_size=24),
                                                          vision_config=VIT)), siglip),
        "siglip_vision": (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VIT)), siglip),
        "vit": (lambda: hf.ViTModel(hf.ViTConfig(**VIT)), hf.ViTImageProcessor(**SQUASH)),
        "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO)), bit),
        "dinov2_swiglu": (lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO, use_swiglu_ffn=True)), bit),
        "dinov2_registers": (lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**DINO)), bit),
        "dinov3": (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT, num_register_tokens=4)),
                   hf.DINOv3ViTImageProcessor(**SQUASH)),
    }  # fmt: skip
    model, processor = made[kind]
    return seeded(model, seed=0).eval(), processor


KINDS = (
    "clip",
    "clip_vision",
    "siglip",
    "siglip_vision",
    "vit",
    "dinov2",
    "dinov2_swiglu",
    "dinov2_registers",
    "dinov3",
)


def write_stock_vit(folder: Path, kind: str) -> Path:
    """A folder as the hub has it: weights, config, image processor and, of CLIP and SigLIP, a tokenizer."""
    model, processor = build(kind)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind in ("clip", "siglip"):
        tokenizer = hf.PreTrainedTokenizerFast(
            tokenizer_object=words_of("a picture of a red star, a blue fish"), eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
        )  # fmt: skip
        tokenizer.save_pretrained(folder)
    return folder
