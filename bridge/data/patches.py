"""Images -> pixels, on threads -> patch tokens of the frozen vision tower."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Protocol

import torch
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from bridge.data.pictures import Picture, open_picture
from vlm.cores import cores_of_this_process
from vlm.device import sent
from vlm.errors import UserError
from vlm.images import ImageError
from vlm.llava.digest import config_text
from vlm.llava.parts import tower_tokens, vision_tower
from vlm.llava.pixels import pixels_of


class Features(Protocol):
    """Where patch tokens come from. `load` may run on any thread, `encode` where the model is trained."""

    pins: bool  # whether what is loaded lies in memory that the device copies from while the processor goes on

    def prepare(self, images: Sequence[Picture]) -> dict[Picture, str]:
        """Read ahead what `load` will be asked for -> the images that cannot be used, and why."""
        ...

    def forget(self, images: Iterable[Picture]) -> None:
        """Drop what was read ahead of images that `load` will not be asked for."""
        ...

    def load(self, images: Sequence[Picture]) -> torch.Tensor:
        """What `encode` takes, on the host; its first dimension is that of the images."""
        ...

    def encode(self, loaded: torch.Tensor) -> torch.Tensor:
        """The patch tokens [images, N, D] on the device."""
        ...


def pinned(tensor: torch.Tensor, pins: bool) -> torch.Tensor:
    return tensor.pin_memory() if pins else tensor


class PatchEncoder:
    """Images -> what a stock LLaVA hands to its connector, [B, N, D], by its vision tower and image processor.

    `shape` is (N, D). The dtype is the tower's own, also in the cache: cached and live features are the same numbers.
    """

    def __init__(self, model: LlavaForConditionalGeneration, processor: BaseImageProcessor):
        self._model, self._tower, self._processor = model, vision_tower(model), processor
        self._transform = pixels_of(processor)
        self._ready: dict[Picture, torch.Tensor] = {}  # pixels of images that the next calls will encode
        self._pool = ThreadPoolExecutor(cores_of_this_process(), "pixels")
        self.dtype, self.device = self._tower.dtype, self._tower.device
        self.pins = self.device.type == "cuda"
        self.shape: tuple[int, int] = (model.config.image_seq_length, self._tower.config.hidden_size)

    def prepare(self, images: Sequence[Picture]) -> dict[Picture, str]:
        """Decode images and make their pixels, on all of this process's cores -> those that cannot be used, and why."""
        unreadable: dict[Picture, str] = {}
        for image, found in zip(images, self._pool.map(self._pixels, images)):
            if isinstance(found, ImageError):
                unreadable[image] = found.reason
            elif isinstance(found, UserError):
                unreadable[image] = "unreadable image"
            else:
                self._ready[image] = found
        return unreadable

    def forget(self, images: Iterable[Picture]) -> None:
        for image in images:
            self._ready.pop(image, None)

    def _pixels(self, image: Picture) -> torch.Tensor | UserError:
        """float[3, H, W] in the tower's dtype. Pillow and torch compute without Python's lock."""
        try:
            picture = open_picture(image, self._side())
        except UserError as error:
            return error
        return self._transform(picture).to(self.dtype)

    def _side(self) -> int | None:
        """The short side that images are resized to: larger JPEGs need not be decoded whole."""
        size: Any = getattr(self._processor, "size", None) or {}
        sides = [size.get(name) for name in ("shortest_edge", "height", "width")]
        return max((side for side in sides if side), default=None)

    def load(self, images: Sequence[Picture]) -> torch.Tensor:
        """Pixels, float[B, 3, H, W] of the tower's dtype. Raises: UserError if one cannot be read."""
        ready: dict[Picture, torch.Tensor | UserError | None] = {}
        for image in dict.fromkeys(images):
            ready[image] = self._ready.pop(image, None)
        missing = [image for image, pixels in ready.items() if pixels is None]
        ready.update(zip(missing, self._pool.map(self._pixels, missing)))
        pixels = []
        for image in images:
            found = ready[image]
            if not isinstance(found, torch.Tensor):
                raise found or ValueError(image)
            pixels.append(found)
        return pinned(torch.stack(pixels), self.pins)

    @torch.no_grad()
    def encode(self, loaded: torch.Tensor) -> torch.Tensor:
        """Pixels -> patch tokens [B, N, D] on the tower's device."""
        return tower_tokens(self._model, sent(loaded, self.device))

    def __call__(self, images: Sequence[Picture]) -> torch.Tensor:
        """Encode images now: [B, N, D] on the tower's device."""
        return self.encode(self.load(images))

    @cached_property
    def key(self) -> str:
        """Hash of everything that the features depend on: `weights_key` and every setting of the tower."""
        return hashlib.sha256(f"{self.weights_key} {config_text(self._tower.config)}".encode()).hexdigest()

    @cached_property
    def weights_key(self) -> str:
        """Hash of weights, dtype, preprocessing and the layer that is read; runs are known by it."""
        processor = type(self._processor).__name__ + self._processor.to_json_string()  # the JSON leaves "Pil" out
        digest = hashlib.sha256(processor.encode())
        config = self._model.config
        digest.update(f"{config.vision_feature_layer} {config.vision_feature_select_strategy}".encode())
        tower: Any = self._tower.config
        digest.update(f"{tower.model_type} {tower.num_attention_heads} {tower.hidden_act} {tower.image_size}".encode())
        for name, value in sorted(self._tower.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
