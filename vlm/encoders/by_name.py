"""Any encoder by the name that a command is given."""

from vlm.encoders.base import VisionEncoder
from vlm.encoders.baselines import blind_encoder, random_encoder
from vlm.encoders.config import NORMALISATIONS
from vlm.encoders.levljepa import load_encoder
from vlm.encoders.timm import random_timm_encoder, timm_encoder


def open_encoder(name: str, seed: int = 0, normalisation: str | None = None) -> VisionEncoder:
    """Open an encoder: frozen, in eval mode, fp32, on the CPU. name is one of

        DIR                              a folder: RUN/encoder, or a released LeVLJEPA checkpoint
        timm:NAME, timm:NAME@FILE        a plain ViT of timm's, with weights from the hub or a safetensors file
        random:DIR, random:timm:NAME     the same architectures with random weights, which depend on `seed` alone
        blind                            a ViT that gives the same tokens for every image

    normalisation: a key of `NORMALISATIONS`, in place of the encoder's own pixel statistics.
    Raises: UserError if there is no such encoder, or its weights cannot be used.
    """
    source, is_random = name.removeprefix("random:"), name.startswith("random:")
    architecture, is_timm = source.removeprefix("timm:"), source.startswith("timm:")
    encoder: VisionEncoder
    if name == "blind":
        encoder = blind_encoder(seed)
    elif is_timm:
        encoder = random_timm_encoder(architecture, seed) if is_random else timm_encoder(architecture)
    else:
        encoder = random_encoder(source, seed) if is_random else load_encoder(source)
    if normalisation:
        mean, std = NORMALISATIONS[normalisation]
        encoder = encoder.with_config(mean=mean, std=std)
    return encoder
