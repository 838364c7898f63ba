"""Any encoder by the name that a command is given."""

from vlm.encoders.base import VisionEncoder
from vlm.encoders.baselines import blind_encoder, random_encoder
from vlm.encoders.config import NORMALISATIONS
from vlm.encoders.levljepa import check_levljepa, load_encoder
from vlm.encoders.naming import parse_encoder
from vlm.errors import UserError


def open_encoder(
    name: str,
    seed: int = 0,
    normalisation: str | None = None,
    image_size: int | None = None,
    heads: int | None = None,
) -> VisionEncoder:
    """Open an encoder: frozen, in eval mode, fp32, on the CPU. name is one of

        DIR, OWNER/NAME                  RUN/encoder, or a released LeVLJEPA checkpoint: a folder or a hub id
        hf:DIR, hf:OWNER/NAME            CLIP, SigLIP, DINOv2, DINOv3 or ViT in Hugging Face's layout
        timm:NAME[@SIZE][@FILE]          a ViT of timm's, with weights from the hub or a safetensors file
        random:...                       each of these with random weights, which depend on `seed` alone
        blind                            a ViT that gives the same tokens for every image

    normalisation: a key of `NORMALISATIONS`, in place of the encoder's own pixel statistics. image_size: in place of
    its own; positions are interpolated. heads: of a LeVLJEPA checkpoint whose config.json does not say.
    Raises: UserError if there is no such encoder, its weights cannot be used, or `heads` are not its own.
    """
    named = parse_encoder(name)
    encoder: VisionEncoder
    if named.kind == "blind":
        encoder = blind_encoder(seed)
    elif named.kind == "timm":
        from vlm.encoders.timm import random_timm_encoder, timm_encoder

        encoder = random_timm_encoder(named.place, seed) if named.random else timm_encoder(named.place)
    elif named.kind == "hf":
        from vlm.encoders.huggingface import hf_encoder, random_hf_encoder

        encoder = random_hf_encoder(named.place, seed) if named.random else hf_encoder(named.place)
    elif named.random:
        encoder = random_encoder(named.place, seed, heads)
    else:
        encoder = load_encoder(named.place, heads=heads)
    if heads and heads != encoder.heads:
        raise UserError(f"--heads {heads}: {name} has {encoder.heads} attention heads, and says so: leave it out")
    if image_size and image_size != encoder.config.image_size:
        encoder = encoder.resized(image_size)
    if normalisation:
        mean, std = NORMALISATIONS[normalisation]
        encoder = encoder.with_config(mean=mean, std=std)
    return encoder


def check_encoder(name: str) -> None:
    """Say early what `open_encoder` would: small files are fetched from the hub, no weights are read.

    Raises: UserError if there is no such encoder, or it is of a kind that cannot serve.
    """
    named = parse_encoder(name)
    if named.kind == "timm":
        from vlm.encoders.timm import check_timm

        check_timm(named.place, weights=not named.random)
    elif named.kind == "hf":
        from vlm.encoders.huggingface import check_hf

        check_hf(named.place, weights=not named.random)
    elif named.kind == "levljepa":
        check_levljepa(named.place)
