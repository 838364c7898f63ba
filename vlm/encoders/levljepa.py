"""A LeVLJEPA encoder in memory and on disk: a timm ViT and a GPT-2 text tower, each with its heads.

On disk it has the released layout: `vision_encoder.safetensors` and `text_encoder.safetensors` with the prefixes
`encoder.`, `pre_proj.` and `projector.` (the predictor), and `config.json`. Ours adds the pixel statistics to the
config, and `tokenizer.json` if the tokenizer is not GPT-2's. An encoder trained by CLIP's or SigLIP's objective has
`projector_depth` 0, and the learned scalars of its logits in `config.json`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.ops import MLP
from transformers import GPT2Config, GPT2Model

from vlm.directories import atomic_directory
from vlm.distributed import is_main
from vlm.encoders.base import VisionEncoder, checked_pixels, checked_texts
from vlm.encoders.config import EncoderConfig
from vlm.encoders.licence import FREE, weights_licence
from vlm.encoders.timm_vit import resized_positions, timm_layer_tokens
from vlm.encoders.tokens import CaptionTokenizer
from vlm.encoders.weights import check_readable, load_exactly, on_disk, read_weights
from vlm.errors import UserError, writing
from vlm.files import read_json, write_json
from vlm.hub import model_folder
from vlm.integrity import MANIFEST, verify, write_manifest

WEIGHTS = ("vision_encoder.safetensors", "text_encoder.safetensors")
OWN_FILES = (*WEIGHTS, "config.json", "tokenizer.json")
FILES = (*OWN_FILES, MANIFEST)
INSTEAD = "give RUN/encoder, or a folder with the released files"
Norm = Callable[[int], nn.Module]  # a width -> the normalisation of a head
Backbone = TypeVar("Backbone", VisionTransformer, GPT2Model)


class Tower(nn.Module, Generic[Backbone]):
    """One modality: its backbone and the two heads behind it.

    The projection `pre_proj` gives the embedding z. The predictor `projector` turns z into the other modality's z; at
    depth 0 both modalities share one space, so that it is the identity and has no weights. The three attributes have
    the names of the released weights.
    """

    def __init__(self, encoder: Backbone, width: int, config: EncoderConfig, norm: Norm):
        super().__init__()
        hidden, embed = config.projector_width, config.embed_dim
        self.encoder = encoder
        self.pre_proj = nn.Sequential(nn.Linear(width, hidden), norm(hidden), nn.GELU(), nn.Linear(hidden, embed))
        self.projector: nn.Module = nn.Identity()
        if config.projector_depth:
            layers = [hidden] * config.projector_depth + [embed]
            self.projector = MLP(embed, layers, norm_layer=norm, activation_layer=nn.GELU)


class ImageTower(Tower[VisionTransformer]):
    """A timm ViT that is read at its class token."""

    def __init__(self, config: EncoderConfig, norm: Norm):
        backbone = VisionTransformer(
            img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.vision_width,
            depth=config.vision_layers, num_heads=config.vision_heads, num_classes=0, dynamic_img_size=True,
        )  # fmt: skip
        super().__init__(backbone, config.vision_width, config, norm)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> CLS after the final norm, [B, vision_width]."""
        return self.encoder(pixels)


class TextTower(Tower[GPT2Model]):
    """A GPT-2 that is read at a caption's last token."""

    def __init__(self, config: EncoderConfig, norm: Norm):
        sizes = GPT2Config(
            n_embd=config.text_width, n_layer=config.text_layers, n_head=config.text_heads,
            n_inner=4 * config.text_width, n_positions=config.positions, vocab_size=config.vocab_size,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own function, as one kernel instead of a chain of eight
            bos_token_id=None, eos_token_id=None, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, use_cache=False,
        )  # fmt: skip
        super().__init__(GPT2Model(sizes), config.text_width, config, norm)

    def features(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """ids: int64[B, T] padded on the right, lengths: int64[B] -> last real token [B, text_width].

        The tower is causal, so the token that is read never sees the pads to its right: they need no mask.
        """
        gpt2, length = self.encoder, ids.shape[1]
        hidden = gpt2.wte(ids) + gpt2.wpe(torch.arange(length, device=ids.device))  # [B, T, text_width]
        # The blocks are called one by one: GPT2Model would ask the device if sequences are packed, and wait for it.
        # Without a mask SDPA is causal by itself; eager attention needs one.
        mask = None if gpt2.config._attn_implementation != "eager" else _causal_mask(length, hidden)
        for block in gpt2.h:
            hidden = block(hidden, attention_mask=mask)
        hidden = gpt2.ln_f(hidden)
        return hidden[torch.arange(len(ids), device=ids.device), lengths.to(ids.device) - 1]


def _causal_mask(length: int, like: torch.Tensor) -> torch.Tensor:
    """What eager attention adds to its scores, [1, 1, T, T]: the lowest number behind a token, 0 before."""
    lowest = torch.finfo(like.dtype).min
    return torch.full((length, length), lowest, dtype=like.dtype, device=like.device).triu(1)[None, None]


class Encoder(VisionEncoder[EncoderConfig]):
    """Both towers, ready to embed images and captions. `norm` builds the normalisation in the heads."""

    def __init__(self, config: EncoderConfig, tokenizer: CaptionTokenizer | None = None, norm: Norm = nn.BatchNorm1d):
        super().__init__()
        self.config = config
        self.image = ImageTower(config, norm)
        self.text = TextTower(config, norm)
        self._tokenizer = tokenizer

    @property
    def vision(self) -> VisionTransformer:
        return self.image.encoder

    @property
    def width(self) -> int:
        return self.config.vision_width

    @property
    def heads(self) -> int:
        return self.config.vision_heads

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    def resized(self, image_size: int) -> "Encoder":
        config = self.config.at_size(image_size)
        twin = Encoder(
            replace(self.config, image_size=config.image_size, short_side=config.short_side), self._tokenizer
        )
        weights = self.state_dict()
        weights["image.encoder.pos_embed"] = resized_positions(self.vision, twin.vision)
        twin.load_state_dict(weights)
        return twin.train(self.training).requires_grad_(False)

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vision.forward_features(checked_pixels(pixels))[:, 1:]

    def layer_tokens(self, pixels: torch.Tensor, layer: int) -> torch.Tensor:
        return timm_layer_tokens(self.vision, checked_pixels(pixels), layer)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> CLS after the final norm, [B, vision_width]."""
        return self.image.features(checked_pixels(pixels))

    @property
    def tokenizer(self) -> CaptionTokenizer:
        """The caption tokenizer; GPT-2's, from the hub or its cache, if the encoder brought none."""
        if self._tokenizer is None:
            self._tokenizer = CaptionTokenizer.gpt2()
        return self._tokenizer

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32[B, 3, H, W] -> z_v [B, embed_dim]."""
        return self.image.pre_proj(self.features(pixels))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Captions, each read at its end-of-text token -> z_t [B, embed_dim]."""
        ids, lengths = self.tokenizer(checked_texts(texts))
        return self.text.pre_proj(self.text.features(ids.to(self.device), lengths))

    def predict_text(self, z_v: torch.Tensor) -> torch.Tensor:
        """h_v: z_v [B, embed_dim] -> the predicted z_t [B, embed_dim]."""
        return self.image.projector(z_v)

    def predict_image(self, z_t: torch.Tensor) -> torch.Tensor:
        """h_t: z_t [B, embed_dim] -> the predicted z_v [B, embed_dim]."""
        return self.text.projector(z_t)

    def with_random_weights(self, seed: int) -> "Encoder":
        """A new encoder of the same config and tokenizer, with random weights that depend on `seed` alone."""
        return new_encoder(self.config, seed, self._tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write the released layout to `folder`, whole or not at all: fp32, without BatchNorm's counters."""
        size = sum(weight.numel() * 4 for weight in self.parameters()) + (1 << 16)  # names, shapes, settings
        with writing(folder, needed=size), atomic_directory(folder) as partial_folder:
            for tower, file in zip((self.image, self.text), WEIGHTS):
                save_file(on_disk(tower), partial_folder / file)
            write_json(partial_folder / "config.json", self.config.to_json())
            if self._tokenizer is not None:
                self._tokenizer.save(partial_folder / "tokenizer.json")
            write_manifest(partial_folder)


def load_encoder(name: str | Path, heads: int | None = None) -> Encoder:
    """Read `RUN/encoder` or a released LeVLJEPA checkpoint: frozen, in eval mode, fp32, on the CPU.

    name: a folder or a hub id. heads: of both towers, if config.json does not say. The published weights
    (LeVLJEPA-ViT-B-DataComp) are CC BY-NC 4.0, for non-commercial use only, which is said once.
    Raises: UserError if a file is missing, damaged, of another shape, or not what the folder's manifest says.
    """
    folder = model_folder(str(name), list(FILES), INSTEAD)
    for file in OWN_FILES:
        check_readable(folder / file)
    verify(folder)
    found = read_json(folder / "config.json")
    vision_file, text_file = (folder / file for file in WEIGHTS)
    advice = _advice(folder)
    vision, text = read_weights(vision_file, advice), read_weights(text_file, advice)
    try:
        config = EncoderConfig.from_json(found, vision, text, heads, str(folder / "config.json"))
    except UserError:
        raise
    except (LookupError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else f"a weight has another shape ({error})"
        raise UserError(f"{folder} is not a LeVLJEPA encoder: {problem}") from None
    tokenizer = folder / "tokenizer.json"
    encoder = new_encoder(config, seed=0, tokenizer=CaptionTokenizer.load(tokenizer) if tokenizer.exists() else None)
    load_exactly(encoder.image, vision, vision_file, "its config.json")
    load_exactly(encoder.text, text, text_file, "its config.json")
    _tell_licence(name, found)  # of weights that are there
    return encoder.eval().requires_grad_(False)


def _advice(folder: Path) -> str:
    """What is needed, for a folder that lacks a file; the folder of a run holds an encoder one level below."""
    instead = f"; did you mean {folder / 'encoder'}?" if (folder / "encoder").is_dir() else ""
    return f"an encoder folder has {', '.join(WEIGHTS)} and config.json{instead}"


def check_levljepa(name: str) -> None:
    """Raises: UserError if there is no folder or hub id of this name, or it has no config.json; no weights are read."""
    folder = model_folder(name, ["config.json"], INSTEAD)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: {_advice(folder)}")


@cache
def _say_once(line: str) -> None:
    if is_main():
        print(line, file=sys.stderr)


def _tell_licence(name: str | Path, config: Any) -> None:
    """Say once that weights are for non-commercial use only: the authors' published ones, and what began from such."""
    licence = weights_licence(config) if isinstance(config, dict) else FREE
    if "-nc" in licence:
        whose = "its weights began from others that" if "normalization" in config else "the published LeVLJEPA weights"
        _say_once(f"{name}: {whose} are {licence.upper()}, for non-commercial use only")


def new_encoder(
    config: EncoderConfig, seed: int, tokenizer: CaptionTokenizer | None = None, norm: Norm = nn.BatchNorm1d
) -> Encoder:
    """An encoder with random weights that depend on `seed` alone; the global RNG is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(config, tokenizer, norm)
