"""Hugging Face's image encoders by name: CLIP, SigLIP, DINOv2 with and without registers, DINOv3, ViT."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import logging

from vlm.checked import Fields, brief_value
from vlm.encoders.base import VisionEncoder, checked_layer, checked_pixels
from vlm.encoders.config import PixelConfig
from vlm.encoders.hub_pixels import read_pixels
from vlm.encoders.stock import model_with
from vlm.encoders.text import StockTextTower
from vlm.errors import UserError, memory_ran_out, one_line
from vlm.files import read_json
from vlm.hub import model_folder
from vlm.integrity import verify
from vlm.model_files import UNREADABLE, check_fits, check_model_folder

SMALL_FILES = ["*.json", "*.txt", "*.model"]  # config, processor and tokenizer
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True)
class Family:
    """A `model_type` of config.json: the class that opens it, and what its ViT gives.

    prefix: tokens before the patches, but for registers. whole: the model also has a text tower. spare: weights that
    files may have beside those of the class, or lack, because nothing here reads them.
    """

    model: str
    prefix: int
    whole: bool = False
    spare: tuple[str, ...] = ("classifier.",)


FAMILIES = {
    "clip": Family("CLIPModel", 1, whole=True),
    "clip_vision_model": Family("CLIPVisionModel", 1, spare=("visual_projection.", "classifier.")),
    "siglip": Family("SiglipModel", 0, whole=True),
    "siglip_vision_model": Family("SiglipVisionModel", 0),
    "vit": Family("ViTModel", 1, spare=("classifier.", "pooler.")),
    "dinov2": Family("Dinov2Model", 1),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", 1),
    "dinov3_vit": Family("DINOv3ViTModel", 1),
}
_ANY_SHAPE = (
    "is SigLIP 2 of any shape (NaFlex), which reads patches and their places: LLaVA gives images. Take a fixed size, "
    "such as hf:google/siglip2-base-patch16-224"
)
REFUSED = {
    "siglip2": _ANY_SHAPE,
    "siglip2_vision_model": _ANY_SHAPE,
    "deit": "has a distillation token behind CLS, of which LLaVA would drop CLS alone",
    "vit_mae": "drops three quarters of the patches at random: take a ViTModel with its weights",
    "timm_wrapper": "is timm's: give timm:NAME",
}


class HuggingFaceEncoder(VisionEncoder[PixelConfig]):
    """A stock ViT, with the text tower of its checkpoint if it has one."""

    def __init__(self, vision: PreTrainedModel, text: StockTextTower | None, config: PixelConfig):
        super().__init__()
        vision.config.tie_last_hidden_states = False  # the last hidden state is that of the last block
        self._vit, self._text, self.config = vision, text, config

    @property
    def vision(self) -> PreTrainedModel:
        return self._vit

    @property
    def family(self) -> Family:
        return FAMILIES[self._vit.config.model_type]

    @property
    def prefix(self) -> int:
        """Tokens before the patches: CLS, and registers."""
        return self.family.prefix + getattr(self._vit.config, "num_register_tokens", 0)

    @property
    def width(self) -> int:
        return self._vit.config.hidden_size

    @property
    def heads(self) -> int:
        return self._vit.config.num_attention_heads

    def resized(self, image_size: int) -> "HuggingFaceEncoder":
        twin = copy.copy(self)
        twin.config = self.config.at_size(image_size)
        twin._modules = {**self._modules, "_vit": resized_vit(self._vit, self.family.prefix, image_size)}
        return twin

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self._vit(checked_pixels(pixels)).last_hidden_state
        if self._vit.config.model_type == "clip_vision_model":  # CLIP's own code puts the norm on CLS alone
            post_layernorm: Any = self._vit.post_layernorm
            tokens = post_layernorm(tokens)
        return tokens[:, self.prefix :]

    def layer_tokens(self, pixels: torch.Tensor, layer: int) -> torch.Tensor:
        layer = checked_layer(layer, self._vit.config.num_hidden_layers)
        return self._vit(checked_pixels(pixels), output_hidden_states=True).hidden_states[layer]

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLS after the final norm, or what SigLIP's attention pooling reads: [B, width]."""
        output = self._vit(checked_pixels(pixels))
        if self.family.prefix:
            pooled = self._vit.config.model_type == "clip_vision_model"
            return output.pooler_output if pooled else output.last_hidden_state[:, 0]
        return output.last_hidden_state.mean(1) if output.pooler_output is None else output.pooler_output

    @property
    def embed_dim(self) -> int:
        return self._with_text().embed_dim

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._with_text().project_image(self.features(pixels))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self._with_text().embed(texts)

    def _with_text(self) -> StockTextTower:
        if self._text is None:
            raise self._no_text()
        return self._text


def hf_encoder(name: str) -> HuggingFaceEncoder:
    """Open a folder or hub id with its weights: frozen, in eval mode, fp32, on the CPU.

    Raises: UserError if there is none, its class cannot be LLaVA's tower (before weights are downloaded), or its
    weights do not fit.
    """
    folder, family = _judged(name)
    folder = model_folder(name, [*SMALL_FILES, *WEIGHT_FILES], _instead(name))
    _refuse_without_weights(name, folder)
    check_fits(_config(name, folder, family), folder)
    verify(folder)
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    model_class = getattr(transformers, family.model)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what does not fit is said below, in a line
    try:
        model, report = model_class.from_pretrained(folder, output_loading_info=True, **options)
    except UNREADABLE as error:
        if memory_ran_out(error):
            raise
        raise UserError(f"hf:{name} cannot be loaded ({one_line(error)}): copy or download it again") from None
    finally:
        logging.set_verbosity(verbosity)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = map(str, report.get(kind) or ())
        wrong = sorted(key for key in keys if not key.startswith(family.spare) and not key.endswith(".position_ids"))
        if wrong:
            raise UserError(f"hf:{name} does not fit {family.model}: {kind.replace('_', ' ')} {wrong[:3]}")
    if not all(torch.isfinite(value).all() for value in model.parameters()):
        raise UserError(f"hf:{name} holds NaN or infinity: copy or download it again")
    return _encoder(model, family, folder)


def random_hf_encoder(name: str, seed: int) -> HuggingFaceEncoder:
    """The encoder of `hf_encoder(name)` with random weights, which depend on `seed` alone; only its config is read."""
    folder, family = _judged(name)
    model_class = getattr(transformers, family.model)
    config = _config(name, folder, family)
    check_fits(config, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = model_class(config)
        except UNREADABLE as error:
            if memory_ran_out(error):
                raise
            raise UserError(f"hf:{name}: no model can be made of its config.json ({one_line(error)})") from None
    return _encoder(model, family, folder)


def check_hf(name: str, weights: bool) -> None:
    """Say early what `hf_encoder` would, of its small files; weights: whether a folder must hold them.

    Raises: UserError if there is none, or its class cannot be LLaVA's tower.
    """
    folder, _ = _judged(name)
    if weights and Path(name).expanduser().is_dir():  # those of the hub are fetched later
        _refuse_without_weights(name, folder)


def _refuse_without_weights(name: str, folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"hf:{name} has no *.safetensors: weights in other formats may run code, convert them first")


def _instead(name: str) -> str:
    return f"give hf:FOLDER, or random:hf:{name} once its config.json is there"


def _judged(name: str) -> tuple[Path, Family]:
    """The folder with the small files of a model, and its family; `UserError` if LLaVA cannot hold it."""
    folder = model_folder(name, SMALL_FILES, _instead(name))
    check_model_folder(folder)
    kind = Fields(read_json(folder / "config.json"), f"{folder}/config.json").record.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        classes = ", ".join(family.model for family in FAMILIES.values())
        reason = REFUSED.get(str(kind), f"has the model_type {brief_value(kind)}")
        raise UserError(f"hf:{name} {reason}; known are {classes}")
    return folder, FAMILIES[kind]


def _config(name: str, folder: Path, family: Family) -> Any:
    try:
        return getattr(transformers, family.model).config_class.from_pretrained(folder, local_files_only=True)
    except UNREADABLE as error:
        raise UserError(f"hf:{name}: its config.json cannot be read ({one_line(error)})") from None


def _encoder(model: PreTrainedModel, family: Family, folder: Path) -> HuggingFaceEncoder:
    """What was loaded or drawn, at the image size of its own processor."""
    parts: Any = model
    vision, text = (parts.vision_model, StockTextTower(model, folder)) if family.whole else (model, None)
    native: Any = vision.config.image_size
    config = read_pixels(folder, vision.config.model_type, native, vision.config.patch_size)
    if config.image_size != native:
        vision = resized_vit(vision, FAMILIES[vision.config.model_type].prefix, config.image_size)
    return HuggingFaceEncoder(vision, text, config).eval().requires_grad_(False)


def resized_vit(vision: PreTrainedModel, prefix: int, image_size: int) -> PreTrainedModel:
    """A copy for another image size, its positions interpolated once by the model's own code.

    vision: with `prefix` learned positions before those of the patches. DINOv3's positions are rotations: it has none.
    """
    config: Any = copy.deepcopy(vision.config)
    config.image_size = image_size
    if config.model_type == "dinov3_vit":
        twin = copy.deepcopy(vision)
        twin.config.image_size = image_size
        return twin
    patches = (image_size // config.patch_size) ** 2
    embeddings: Any = vision.embeddings
    with torch.no_grad():
        like = torch.empty(1, prefix + patches, config.hidden_size)  # only its shape is read
        positions = embeddings.interpolate_pos_encoding(like, image_size, image_size)  # [1, prefix + N, width]
    weights = dict(vision.state_dict())
    if "embeddings.position_embedding.weight" in weights:  # CLIP, SigLIP
        weights["embeddings.position_embedding.weight"] = positions.reshape(-1, config.hidden_size)
    else:
        weights["embeddings.position_embeddings"] = positions
    return model_with(type(vision), config, weights)
