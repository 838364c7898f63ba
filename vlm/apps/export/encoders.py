"""An encoder's ViT for timm or for transformers: `vlm export RUN/encoder OUT --format timm|hf`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from vlm.apps.export.comparing import sample_picture
from vlm.cards.card import make_card, of_vit_alone, read_card, with_section, write_card
from vlm.cards.licences import encoder_part, of_whole
from vlm.encoders.base import VisionEncoder
from vlm.encoders.by_name import open_encoder
from vlm.errors import UserError, writing

ALLOWED = 1e-4  # relative RMS difference of patch tokens: classes round differently, DINOv2's folded scale by 2.5e-5
TIMM = "vit_base_patch16_224"  # any plain ViT's name will do: all of its sizes are told
HF_USE = """\
```python
from transformers import AutoImageProcessor, AutoModel

processor, vit = AutoImageProcessor.from_pretrained("{name}"), AutoModel.from_pretrained("{name}")
tokens = vit(**processor(images=image, return_tensors="pt")).last_hidden_state
```

{reading}
"""
TIMM_USE = """\
```python
import timm

vit = timm.create_model("{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(vit), is_training=False)
patches = vit.forward_features(transform(image)[None])[:, 1:]
```
"""


def write_hf_encoder(source: str, out: Path, name: str) -> str:
    """Write the ViT as the stock class that LLaVA would hold, with its image processor -> what the comparison found."""
    from transformers import AutoImageProcessor, AutoModel, CLIPImageProcessor

    from vlm.llava.pixels import image_settings
    from vlm.llava.tower import AFTER_NORM, stock_tower

    encoder = open_encoder(source)
    tower = stock_tower(encoder, -1)
    after_norm = tower.model.config.model_type in AFTER_NORM
    with writing(out, needed=sum(weight.nbytes for weight in tower.model.parameters())):
        _plain(tower.model).save_pretrained(out)
        CLIPImageProcessor(**image_settings(encoder.config)).save_pretrained(out)
    prefix = f"The first {tower.prefix} tokens are none of patches. " if tower.prefix else ""
    reading = f"`tokens` are float32[1, {tower.prefix + encoder.config.patches}, {encoder.width}]. {prefix}"
    reading += "There is no pooler: `pooler_output` means nothing."
    write_card(_card(source, name, HF_USE.format(name=name, reading=reading), "transformers"), out)

    model: Any = AutoModel.from_pretrained(out, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
    processor: Any = AutoImageProcessor.from_pretrained(out, local_files_only=True)
    with torch.no_grad():
        pixels = processor(images=sample_picture(), return_tensors="pt").pixel_values
        found = model(pixels, output_hidden_states=True)
        # The classes of DINO end behind their norm; what LLaVA reads of them, and CLIP's patches, come before it.
        tokens = found.last_hidden_state if after_norm else found.hidden_states[-1]
        dropped = 1 if tower.strategy == "default" else 0
        return _compared(encoder, pixels, tokens[:, dropped:], tower.expected)


def _plain(model: Any) -> Any:
    """The flag is for LLaVA, which reads hidden states; `last_hidden_state` comes after the norm without it."""
    twin = copy.copy(model)
    twin.config = copy.deepcopy(model.config)
    if hasattr(twin.config, "tie_last_hidden_states"):
        del twin.config.tie_last_hidden_states
    return twin


def write_timm_encoder(source: str, out: Path, name: str, on_hub: bool = False) -> str:
    """Write the ViT as `timm.create_model` reads it from a folder or the hub -> what the comparison found.

    on_hub: `name` is the repository that it is going to be pushed to, else the folder.
    Raises: UserError if it is no plain ViT of timm's.
    """
    import timm
    from timm.models import save_for_hf
    from timm.models.vision_transformer import VisionTransformer

    from vlm.encoders.timm_vit import VIT, stock_class

    encoder = open_encoder(source)
    vision: Any = encoder.vision
    if not isinstance(vision, VisionTransformer) or stock_class(vision) != VIT:
        raise UserError(f"{source} is no plain ViT of timm's: give --format hf")
    config = encoder.config
    block: Any = vision.blocks[0]
    sizes = {
        "img_size": config.image_size, "patch_size": config.patch_size, "embed_dim": vision.embed_dim,
        "depth": len(vision.blocks), "num_heads": block.attn.num_heads, "num_classes": 0,
        "mlp_ratio": block.mlp.fc1.out_features / vision.embed_dim,
    }  # fmt: skip
    model: Any = timm.create_model(TIMM, pretrained=False, **sizes).eval()
    pretrained = model.pretrained_cfg
    _fill(model, vision, source)
    crop = config.image_size / config.short_side if config.short_side else 1.0
    pixels = {
        "input_size": [3, config.image_size, config.image_size], "interpolation": config.resample,
        "mean": list(config.mean), "std": list(config.std), "crop_pct": crop,
        "crop_mode": "center" if config.short_side else "squash",
    }  # fmt: skip
    with writing(out, needed=sum(weight.nbytes for weight in model.parameters())):
        # Only `num_classes` is of the model; as an argument beside it timm would be given it twice.
        given = {key: value for key, value in sizes.items() if key != "num_classes"}
        # timm's own name and licence are of weights that are not inside.
        model.pretrained_cfg = {key: value for key, value in pretrained.items() if key not in ("tag", "license")}
        save_for_hf(model, str(out), model_config={"pretrained_cfg": pixels}, model_args=given, safe_serialization=True)
    place = f"hf-hub:{name}" if on_hub else f"local-dir:{name}"
    write_card(_card(source, name, TIMM_USE.format(name=place), "timm"), out)

    loaded: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    prepare: Any = timm.data.resolve_model_data_config(loaded)
    transform: Any = timm.data.create_transform(**prepare, is_training=False)
    with torch.no_grad():
        batch = transform(sample_picture())[None]
        return _compared(encoder, batch, loaded.forward_features(batch)[:, 1:], encoder.patch_tokens)


def _fill(model: Any, vision: Any, source: str) -> None:
    """Copy the weights; those behind the last norm, of a head that nothing reads here, stay behind."""
    weights = {key: value for key, value in vision.state_dict().items() if key in model.state_dict()}
    report = model.load_state_dict(weights, strict=False)
    left = [key for key, _ in vision.named_parameters() if key not in weights]
    if report.missing_keys or [key for key in left if not key.startswith(("head.", "fc_norm.", "attn_pool."))]:
        raise UserError(f"{source} has parts that timm's plain ViT lacks: give --format hf")


def _compared(encoder: VisionEncoder, pixels: torch.Tensor, tokens: torch.Tensor, expected: Any) -> str:
    """Compare prepared pixels with `encoder.transform`, and tokens of the same pixels with `expected`."""
    prepared = encoder.transform(sample_picture())[None]
    if prepared.shape != pixels.shape or (prepared - pixels).abs().max() > 0.05:  # a grey level is about 0.015
        raise UserError("the exported image processor prepares other pixels than the encoder: not exported")
    wanted = expected(pixels)
    error = float("inf")
    if wanted.shape == tokens.shape:
        error = ((tokens - wanted).square().mean() / wanted.square().mean()).sqrt().item()
    if not error <= ALLOWED:
        raise UserError(f"the exported ViT gives other features than the encoder (relative error {error:.2g})")
    far = (prepared - pixels).abs().max().item()
    return f"loaded again, its patch tokens are within {error:.1e} of the encoder's (relative), pixels within {far:.1g}"


def _card(source: str, name: str, use: str, library: str) -> ModelCard:
    """The encoder's own card with another way to use it, or a bare one."""
    card = read_card(Path(source)) if Path(source).is_dir() else None
    if card is None:
        part = encoder_part(source)
        about = f"The ViT of {part.name}, exported by LeVLM."
        card = make_card(Path(name).name, about, use, [part], {}, {}, pipeline_tag="image-feature-extraction")
    card = of_vit_alone(card, Path(name).name)
    data: Any = card.data
    data.library_name, data.license = library, data.license or of_whole([encoder_part(source)])
    return with_section(card, "Use", use)
