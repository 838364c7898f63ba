"""Patch tokens of the frozen vision tower: computed live, or once per image into memory-mapped shards.

A run that shows an image once encodes it when its step comes, and writes nothing. Training does not change the tower,
so a run of ten epochs reads nine times what it computed once. A cache is a folder of `meta.json`, which says whose
features they are, and of safetensors shards. A shard holds `features` [images, N, D] and, in its metadata, hashes of
the images' bytes: a cache may be moved, and images too. It is written under another name and renamed, so what has a
name is whole, and a killed run goes on with the images that no shard holds.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from bridge.data.patches import PatchEncoder, pinned
from bridge.data.pictures import Picture, picture_digest, reading_order
from vlm.cores import cores_of_this_process
from vlm.device import sent
from vlm.distributed import all_items, barrier, from_main, is_main, on_main, rank, world_size
from vlm.errors import UserError, writing
from vlm.files import cache_folder, read_json, sync, write_json
from vlm.images import DRAFT_MARGIN
from vlm.room import require_room
from vlm.run.folder import lock, occupied
from vlm.run.progress import progress

SHARD_IMAGES = 1024
ENCODED_AT_ONCE = 32  # images
PIXELS = f"JPEGs reduced to {DRAFT_MARGIN:g} of what is read"  # how images are decoded


class FeatureCache:
    """Features of one encoder on disk, by the content of the images. Every rank may fill and read the same folder."""

    def __init__(self, folder: str | Path, encoder: PatchEncoder, shared: bool = False):
        """Open or create the cache; collective. `UserError` if it holds another encoder's features or is damaged.

        shared: among runs that know nothing of each other: one waits while another fills it.
        """
        self.folder, self._encoder, self._shared = Path(folder), encoder, shared
        self.pins = encoder.device.type == "cuda"
        tokens, width = encoder.shape
        expected = {"key": encoder.key, "pixels": PIXELS, "tokens": tokens, "width": width, "dtype": str(encoder.dtype)}
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
        self._digests: dict[Picture, str] = {}  # `picture_digest` of the images that were asked to be filled
        self._places: dict[str, tuple[Path, int]] = {}  # digest -> the shard that holds it, and at which index
        self._open: dict[Path, Any] = {}  # a shard's features [images, N, D], memory-mapped: an index reads [N, D]
        self._scan()

    def fill(self, images: Iterable[Picture]) -> dict[Picture, str]:
        """Compute what is missing, each rank its share, and announce the size before; collective.

        Returns the images that cannot be read -> why, the same on every rank; they have no features.
        Raises: UserError if another run is filling a folder that is not shared, or the disk is too small; what was
            computed before is kept.
        """
        images = sorted(dict.fromkeys(images), key=reading_order)  # each once; a table from front to back
        unreadable = self._read_digests(images)
        self._scan()
        if from_main(self._missing(images)):
            with self._locked():
                self._scan()
                # One list for all: a rank that looked later could miss an image that another's new shard holds.
                missing = from_main(self._missing(images))
                on_main(lambda: self._forecast(len(images), len(missing)))
                mine = missing[rank() :: world_size()]
                found: list[tuple[str, str]] = []
                with progress(len(mine), "features", "image", show=is_main() and bool(mine)) as bar:
                    for start in range(0, len(mine), SHARD_IMAGES):
                        found += self._fill_shard(mine[start : start + SHARD_IMAGES], bar)
                barrier()
            self._scan()
            reasons = dict(all_items(found))
            unreadable |= {image: reasons[digest] for image, digest in self._digests.items() if digest in reasons}
        return unreadable

    def _read_digests(self, images: Sequence[Picture]) -> dict[Picture, str]:
        """Read every image once, each rank its share, to know which it is -> those that cannot be read, and why."""

        def digest(image: Picture) -> str:
            try:
                return picture_digest(image)
            except UserError:
                return ""

        mine = images[rank() :: world_size()]
        with ThreadPoolExecutor(2 * cores_of_this_process()) as pool:  # some wait for the disk
            digests = dict(all_items(list(zip(mine, pool.map(digest, mine)))))
        self._digests.update(digests)
        return {image: "unreadable image" for image in images if not digests[image]}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the folder to this run while it is filled; collective."""
        with ExitStack() as held:
            told = False
            while not on_main(lambda: self._took_lock(held)):
                if is_main() and not told:
                    print(f"features: waiting for another run that fills {self.folder}", file=sys.stderr)
                told = True
                time.sleep(2)
            yield

    def _took_lock(self, held: ExitStack) -> bool:
        """Lock the folder; False if it is shared and another run holds it. Raises: UserError as `lock`."""
        holder = lock(self.folder, "--features", held)
        if holder and not self._shared:
            raise occupied(self.folder, "--features", holder)
        return holder is None

    def _missing(self, images: Sequence[Picture]) -> list[Picture]:
        """One image of each digest that no shard holds."""
        unknown: dict[str, Picture] = {}
        for image in images:
            digest = self._digests[image]
            if digest and digest not in self._places:
                unknown.setdefault(digest, image)
        return list(unknown.values())

    def prepare(self, images: Sequence[Picture]) -> dict[Picture, str]:
        """Nothing: every image was filled."""
        return {}

    def forget(self, images: Iterable[Picture]) -> None:
        """Nothing: none was read ahead."""

    def load(self, images: Sequence[Picture]) -> torch.Tensor:
        """Read images' features, [B, N, D]. Every one must have been filled, by this run or another."""
        rows = []
        for image in images:
            digest = self._digests.get(image) or picture_digest(image)
            shard, index = self._places[digest]
            if shard not in self._open:
                self._open[shard] = safe_open(shard, "pt").__enter__().get_slice("features")
            rows.append(self._open[shard][index])
        return pinned(torch.stack(rows), self.pins)

    def encode(self, loaded: torch.Tensor) -> torch.Tensor:
        return sent(loaded, self._encoder.device)

    def _forecast(self, images: int, missing: int) -> None:
        if not missing:
            return
        size = feature_bytes(missing, self._encoder.shape, self._encoder.dtype)
        (tokens, width), dtype = self._encoder.shape, self._encoder.dtype
        each = f"{tokens} x {width} {dtype} each, {size / 1e6:,.1f} MB in {self.folder}"
        print(f"features: {missing} of {images} images to encode, {each}", file=sys.stderr)
        advice = "make room, give another folder with --features, train with --no-cache"
        require_room(self.folder, {"features": size}, advice=advice)

    def _fill_shard(self, images: list[Picture], bar: tqdm) -> list[tuple[str, str]]:
        """Encode images into one shard -> the digests of those that cannot be used, and why. Pixels are made ahead."""
        parts: list[torch.Tensor] = []
        encoded: list[Picture] = []
        unreadable: list[tuple[str, str]] = []
        batches = [images[start : start + ENCODED_AT_ONCE] for start in range(0, len(images), ENCODED_AT_ONCE)]
        try:
            with ThreadPoolExecutor(1) as ahead:
                waiting = [ahead.submit(self._encoder.prepare, batch) for batch in batches[:1]]
                for number, batch in enumerate(batches):
                    reasons = waiting.pop().result()
                    for following in batches[number + 1 : number + 2]:
                        waiting.append(ahead.submit(self._encoder.prepare, following))
                    if good := [image for image in batch if image not in reasons]:
                        parts.append(self._encoder(good).cpu())
                    encoded += good
                    unreadable += [(self._digests[image], reason) for image, reason in reasons.items()]
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
        digests = [self._digests[image] for image in images[: len(features)]]
        with writing(path, needed=features.nbytes):
            save_file({"features": features}, partial, {"images": json.dumps(digests)})
            partial.chmod(0o644)  # safetensors writes for the owner alone
            sync(partial)
            os.replace(partial, path)

    def _scan(self) -> None:
        """Look anew at what is there: images of a shard that is gone are missing again."""
        self._places, self._open = {}, {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as shard:
                    digests = json.loads(shard.metadata()["images"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} cannot be read ({error}): delete it, its images are computed again") from None
            for index, digest in enumerate(digests):
                self._places[digest] = (path, index)


def feature_bytes(images: int, shape: tuple[int, int], dtype: torch.dtype) -> int:
    """What features of so many images take on disk."""
    return images * shape[0] * shape[1] * dtype.itemsize


def default_cache(encoder: PatchEncoder) -> Path:
    """The one folder for this encoder's features, whichever run computes them."""
    return cache_folder("features") / encoder.key[:16]
