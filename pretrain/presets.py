"""What a preset, and what an objective, changes of the settings in `pretrain.config`, as plain data."""

from typing import Any

# tiny: the embedded world on two CPU cores in minutes. small: a ViT-S on one GPU. base: the released ViT-B recipe.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(
        image_size=48, patch_size=12, vision_width=128, vision_layers=3, vision_heads=2,
        text_width=96, text_layers=2, text_heads=2, tokenizer="train:1024",
        embed_dim=64, projector_width=256, projector_depth=2,
        directions=256, lambda_image=0.04, lambda_text=0.04,
        steps=5400, batch_size=32, lr=7e-4, min_lr=7e-6, warmup_steps=200, weight_decay=0.05,
        augmentation="squash", workers=0, save_every=1000,
    ),
    "small": dict(
        vision_width=384, vision_heads=6, text_width=384, text_heads=6, batch_size=1024, steps=50_000, embed_dim=256
    ),
    "base": {},
}  # fmt: skip

# What an objective settles whatever the preset; all else is the same for all of them.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "levljepa": {},
    "levljepa-plus": dict(augmentation="dino"),
    "clip": dict(projector_depth=0),
    "siglip": dict(projector_depth=0),
}

# Settings that only some objectives read.
READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("directions", "lambda_image", "lambda_text"), ("levljepa", "levljepa-plus")),
    "lambda_multi": ("levljepa-plus",),
}
