"""Patch tokens of the frozen vision tower: computed live, or once per image into memory-mapped shards.

Training does not change the tower: a run of ten epochs reads nine times what it computed once. A cache is a folder of
`meta.json`, which says whose features they are, and of safetensors shards. A shard holds `features` [images, N, D] and,
in its metadata, which files they come from. It is written under another name and renamed, so what has a name is whole,
and a killed run goes on with the images that no shard holds.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from bridge.data.pictures import Picture, open_picture, picture_identity, reading_order
from vlm.distributed import all_items, barrier, from_main, is_main, on_main, rank, world_size
from vlm.errors import UserError, writing
from vlm.files import read_json, sync, write_json
from vlm.images import ImageError
from vlm.llava.parts import tower_tokens, vision_tower
from vlm.run.folder import locked
from vlm.run.progress import progress

SHARD_IMAGES = 1024
ENCODED_AT_ONCE = 32  # images
Features = Callable[[Sequence[Picture]], torch.Tensor]


class PatchEncoder:
    """Images -> what a stock LLaVA hands to its connector, [B, N, D], by its vision tower and image processor.

    `shape` is (N, D). The dtype is the tower's own, also in the cache: cached and live features are the same numbers.
    """

    def __init__(self, model: LlavaForConditionalGeneration, processor: BaseImageProcessor):
        self._model, self._tower, self._processor = model, vision_tower(model), processor
        self._decoded: dict[Picture, Image.Image] = {}
        self.dtype, self.device = self._tower.dtype, self._tower.device
        self.shape: tuple[int, int] = (model.config.image_seq_length, self._tower.config.hidden_size)

    def prepare(self, images: Sequence[Picture]) -> dict[Picture, str]:
        """Decode the images that the next call will encode -> those that cannot be used, and why."""
        unreadable: dict[Picture, str] = {}

        def decoded(image: Picture) -> Image.Image | UserError:
            try:
                return open_picture(image)
            except UserError as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the GIL
            for image, found in zip(images, pool.map(decoded, images)):
                if isinstance(found, ImageError):
                    unreadable[image] = found.reason
                elif isinstance(found, UserError):
                    unreadable[image] = "unreadable image"
                else:
                    self._decoded[image] = found
        return unreadable

    @torch.no_grad()
    def __call__(self, images: Sequence[Picture]) -> torch.Tensor:
        """Encode images now: [B, N, D] on the tower's device."""
        self.prepare([image for image in images if image not in self._decoded])
        pictures = [self._decoded.get(image) or open_picture(image) for image in images]  # raises what is wrong
        for image in images:
            self._decoded.pop(image, None)
        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"]  # float32[B, 3, H, W]
        return tower_tokens(self._model, pixels.to(self.device, self.dtype))

    @cached_property
    def key(self) -> str:
        """Hash of everything that the features depend on: weights, dtype, preprocessing, the layer that is read."""
        processor = type(self._processor).__name__ + self._processor.to_json_string()  # the JSON leaves "Pil" out
        digest = hashlib.sha256(processor.encode())
        config = self._model.config
        digest.update(f"{config.vision_feature_layer} {config.vision_feature_select_strategy}".encode())
        tower: Any = self._tower.config  # what weights do not show
        digest.update(f"{tower.model_type} {tower.num_attention_heads} {tower.hidden_act} {tower.image_size}".encode())
        for name, value in sorted(self._tower.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


class FeatureCache:
    """Features of one encoder on disk. Every rank may fill and read the same folder."""

    def __init__(self, folder: str | Path, encoder: PatchEncoder):
        """Open or create the cache; collective. `UserError` if it holds another encoder's features or is damaged."""
        self.folder, self._encoder = Path(folder), encoder
        tokens, width = encoder.shape
        expected = {"key": encoder.key, "tokens": tokens, "width": width, "dtype": str(encoder.dtype)}
        meta = self.folder / "meta.json"
        if is_main() and not meta.exists():
            write_json(meta, expected)
        barrier()
        if (found := read_json(meta)) != expected:
            known = found if isinstance(found, dict) else {}
            changed = ", ".join(name for name, value in expected.items() if known.get(name) != value)
            raise UserError(
                f"{self.folder} holds features of another encoder or of other preprocessing ({changed} differ): "
                "give another folder with --features, or delete it"
            )
        self._places: dict[str, tuple[Path, int]] = {}  # which shard holds an image, and at which index
        self._open: dict[Path, Any] = {}  # a shard's features [images, N, D], memory-mapped: an index reads [N, D]
        self._scan()

    def fill(self, images: Iterable[Picture]) -> dict[Picture, str]:
        """Compute what is missing, each rank its share, and announce the size before; collective.

        Returns the images that cannot be read -> why, the same on every rank; they have no features.
        Raises: UserError if another run is filling the folder, or the disk is too small; what was computed before is
            kept.
        """
        unreadable: list[tuple[Picture, str]] = []
        images = sorted(dict.fromkeys(images), key=reading_order)  # each once; a table from front to back
        self._scan()
        if from_main(self._missing(images)):
            with locked(self.folder, "--features"):
                self._scan()
                # One list for all: a rank that looked later could miss an image that another's new shard holds.
                missing = from_main(self._missing(images))
                on_main(lambda: self._forecast(len(images), len(missing)))
                mine = missing[rank() :: world_size()]
                with progress(len(mine), "features", "image", show=is_main() and bool(mine)) as bar:
                    for start in range(0, len(mine), SHARD_IMAGES):
                        unreadable += self._fill_shard(mine[start : start + SHARD_IMAGES], bar)
                barrier()
            self._scan()
        return dict(all_items(unreadable))

    def _missing(self, images: Sequence[Picture]) -> list[Picture]:
        return [path for path in images if picture_identity(path) not in self._places]

    def __call__(self, images: Sequence[Picture]) -> torch.Tensor:
        """Read images' features: [B, N, D] on the encoder's device. Every image must have been filled."""
        rows = []
        for path in images:
            shard, index = self._places[picture_identity(path)]
            if shard not in self._open:
                self._open[shard] = safe_open(shard, "pt").__enter__().get_slice("features")
            rows.append(self._open[shard][index])
        return torch.stack(rows).to(self._encoder.device)

    def _forecast(self, images: int, missing: int) -> None:
        if not missing:
            return
        (tokens, width), dtype = self._encoder.shape, self._encoder.dtype
        size = missing * tokens * width * dtype.itemsize
        each = f"{tokens} x {width} {dtype} each, {size / 1e6:,.1f} MB in {self.folder}"
        print(f"features: {missing} of {images} images to encode, {each}", file=sys.stderr)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise UserError(
                f"{self.folder} needs {size:,} bytes for features and its disk has {free:,} free: "
                "make room, give another folder with --features, or train with --no-cache"
            )

    def _fill_shard(self, images: list[Picture], bar: tqdm) -> list[tuple[Picture, str]]:
        """Encode images into one shard -> those that cannot be read, and why."""
        parts: list[torch.Tensor] = []
        encoded: list[Picture] = []
        unreadable: list[tuple[Picture, str]] = []
        try:
            for start in range(0, len(images), ENCODED_AT_ONCE):
                batch = images[start : start + ENCODED_AT_ONCE]
                reasons = self._encoder.prepare(batch)
                if good := [image for image in batch if image not in reasons]:
                    parts.append(self._encoder(good).cpu())
                encoded += good
                unreadable += reasons.items()
                bar.update(len(batch))
        finally:  # also when the run is stopped here: the next attempt goes on behind the finished batches
            if parts:
                self._write_shard(torch.cat(parts), encoded)
        return unreadable

    def _write_shard(self, features: torch.Tensor, images: list[Picture]) -> None:
        """features: [finished, N, D], of the first `finished` of the images."""
        # After this rank's last shard: if a damaged one was deleted, the count of shards is the name of a good one.
        names = (re.fullmatch(r"rank\d+_(\d+)", path.stem) for path in self.folder.glob(f"rank{rank()}_*.safetensors"))
        number = max((int(name[1]) + 1 for name in names if name), default=0)
        path = self.folder / f"rank{rank()}_{number:05d}.safetensors"
        partial = path.with_suffix(".tmp")
        identities = [picture_identity(image) for image in images[: len(features)]]
        with writing(path, needed=features.nbytes):
            save_file({"features": features}, partial, {"images": json.dumps(identities)})
            partial.chmod(0o644)  # safetensors writes for the owner alone
            sync(partial)
            os.replace(partial, path)

    def _scan(self) -> None:
        """Look anew at what is there: images of a shard that is gone are missing again."""
        self._places, self._open = {}, {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as shard:
                    images = json.loads(shard.metadata()["images"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} cannot be read ({error}): delete it, its images are computed again") from None
            for index, identity in enumerate(images):
                self._places[identity] = (path, index)
