"""The manifest of a set of tars: what each shard holds and where. Built once, cached on disk, mapped into memory.

    manifest.json     the shards: path, size, stamp (time, or a store's entity tag), number of pairs, damage, SHA-256 if
                      asked; the reasons' counts
    samples.npy       PAIR[n]: where each usable pair lies, shard after shard
    unusable.npy      int64[m, 2]: shard and index of each sample that cannot be used
    unusable.jsonl    the same with key and reason, and a line for each short shard

A pair takes 16 bytes (1.6 GB for 100 million, shared by all processes of a machine): any sample is one `pread` away.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data import listing, tars
from pretrain.data.captions import CAPTION_BYTES, Caption, from_json
from pretrain.data.pairs import Captions, fingerprint_rows
from pretrain.data.remote import is_remote
from pretrain.data.samples import Fields
from pretrain.data.shards import as_path, public_path, shards_at, versions
from pretrain.data.shards import sha256 as shard_sha256
from vlm.distributed import barrier, is_main, on_main
from vlm.errors import UserError
from vlm.files import cache_folder, read_json, read_jsonl


class TarCaptions(Captions):
    """Image-caption pairs in WebDataset tars, from their manifest's folder.

    paths: of files here, or URLs. field: of the caption in its member's JSON; "" for the whole of it, None if the
    member is plain text.
    """

    def __init__(self, folder: Path, paths: Sequence[str | Path], field: str | None = None):
        self.field = field
        self.paths, places = list(paths), [as_path(path) for path in paths]
        common = os.path.commonpath([path.parent for path in places])
        self.names = [str(path.relative_to(common)) for path in places]
        self.record = read_json(folder / "manifest.json")
        self.shards = shards_at(self.paths, [listing.listed(shard) for shard in self.record["shards"]])
        self.reads_ahead = self.shards.reads_ahead
        self.samples = np.load(folder / "samples.npy", mmap_mode="r")
        self.counts = np.array([shard["samples"] for shard in self.record["shards"]], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._unusable_file = folder / "unusable.jsonl"
        self._unusable_at = np.load(folder / "unusable.npy")  # int64[m, 2]: shard, index

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shards' names, sizes in bytes and numbers of pairs, and of a few pairs' content.

        Sizes alone would not do: tar fills members up to whole blocks, so that other captions take as much room.
        """
        shards = [(name, shard["size"], shard["samples"]) for name, shard in zip(self.names, self.record["shards"])]
        digest, rows = hashlib.sha256(json.dumps(shards).encode()), fingerprint_rows(len(self))
        self.prefetch(rows)
        for piece in self._pieces(rows, images=True):
            with suppress(OSError):  # training will list it as bad, if it is drawn
                digest.update(hashlib.sha256(self.shards.read(*piece)).digest())
        return digest.hexdigest()

    def read(self, number: int) -> tuple[bytes, Caption]:
        image, size, _, _ = self.samples[number].item()
        return self._pread(self._shard(number), image, size), self.caption(number)

    def caption(self, number: int) -> Caption:
        _, _, caption, size = self.samples[number].item()
        content = self._pread(self._shard(number), caption, self._caption_size(size))
        return content if self.field is None else from_json(content, self.field)

    def document(self, number: int) -> Any:
        """What a caption's JSON holds; None if it is damaged."""
        _, _, caption, size = self.samples[number].item()
        with suppress(ValueError, RecursionError):
            return json.loads(self._pread(self._shard(number), caption, size))
        return None

    def _caption_size(self, size: int) -> int:
        """How much of a caption's member is read: text may be cut, JSON may not."""
        return min(size, CAPTION_BYTES) if self.field is None else size

    def identify(self, number: int) -> tuple[str, int]:
        """The index counts all samples of the shard, unusable ones too."""
        shard = self._shard(number)
        place = number - int(self._starts[shard])  # among the usable samples of the shard
        # The i-th unusable sample, at index u_i, has u_i - i usable ones before it. The sample at `place` comes behind
        # those that have `place` or fewer, so its index is `place` plus their number.
        first, last = np.searchsorted(self._unusable_at[:, 0], [shard, shard + 1])
        usable_before = self._unusable_at[first:last, 1] - np.arange(last - first)
        return self.names[shard], place + int(np.searchsorted(usable_before, place, side="right"))

    def key(self, number: int) -> str:
        """The member's name up to its first dot, as far as the tar's header holds it (100 bytes)."""
        header = self._pread(self._shard(number), int(self.samples[number]["image"]) - 1, tars.TAR_BLOCK)
        return tars.split_name(tars.parse_header(header)[0])[0]

    def unusable(self) -> Iterator[dict]:
        """Samples without a pair, and for each short shard a line that says what is missing after the damage."""
        for record in read_jsonl(self._unusable_file):
            yield {**record, "shard": self.names[record["shard"]]}

    def reasons(self) -> Counter:
        return Counter(self.record["reasons"])

    def notices(self) -> Iterator[str]:
        for name, shard in zip(self.names, self.record["shards"]):
            if shard["damage"]:
                yield f"{name} is short: {shard['damage']}"
        extra = [shard["extra"] for shard in self.record["shards"] if shard["extra"][1]]
        if extra:
            count = sum(number for _, number in extra)
            yield f"{count:,} images like {extra[0][0]} are further fields of samples and not read (--image-column)"

    def verify(self) -> list[str]:
        """Names of the shards that are gone, or whose SHA-256 is no longer the recorded one.

        Raises: UserError if the manifest was built without SHA-256.
        """
        if not all(shard["sha256"] for shard in self.record["shards"]):
            raise UserError("the manifest holds no SHA-256: build it with --sha256 first")
        shards = zip(self.names, self.paths, self.record["shards"])
        return [name for name, path, shard in shards if _hash_of(path) != shard["sha256"]]

    def _shard(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def prefetch(self, *steps: Iterable[int], images: bool = True) -> None:
        if self.reads_ahead:
            self.shards.prefetch(*(self._pieces(step, images) for step in steps))

    def _pieces(self, numbers: Iterable[int], images: bool) -> Iterator[tuple[int, int, int]]:
        """Where the files of these samples lie: shard, start and size in bytes."""
        for number in numbers:
            image, image_size, caption, caption_size = self.samples[number].item()
            shard = self._shard(number)
            yield shard, caption * tars.TAR_BLOCK, self._caption_size(caption_size)
            if images:
                yield shard, image * tars.TAR_BLOCK, image_size

    def _pread(self, shard: int, block: int, size: int) -> bytes:
        """`size` bytes of a shard from a block of its tar on."""
        return self.shards.read(shard, block * tars.TAR_BLOCK, size)


def open_tars(
    paths: Sequence[str | Path],
    fields: Fields,
    field: str | None = None,
    cache: Path | None = None,
    sha256: bool = False,
    as_listed: bool = False,
) -> TarCaptions:
    """Load the shards' manifest from the cache, or build it if there is none or a shard changed; collective.

    fields: as in `tars.scan`. field: of the caption in its JSON, as for `TarCaptions`. cache: instead of
    ~/.cache/levlm/manifests (~/.cache stands for $XDG_CACHE_HOME). sha256: record each shard's hash. as_listed:
    take the manifest of the cache as it is, so that what it recorded can be compared with changed shards.

    Raises: UserError if a shard cannot be read or holds no pair, the cache cannot be written, or nothing is listed.
    """
    stored = is_remote(paths[0])
    paths = list(paths) if stored else [Path(path).absolute() for path in paths]
    cache = cache or cache_folder("manifests")
    places = [as_path(path) for path in paths]
    request = {"version": listing.VERSION, "paths": [str(path) for path in places]}
    request |= {"images": fields.images, "captions": fields.captions}
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]
    folder = cache / f"{places[0].parent.name or 'shards'}-{digest}"
    if as_listed:
        if not (folder / "manifest.json").is_file():
            problem = f"{cache} holds no manifest of the {len(paths)} shards that are there now"
            raise UserError(f"{problem}: restore shards that are gone, or list them with --sha256 first")
        return TarCaptions(folder, paths, field)
    # A store is asked once, not by every process.
    asked = on_main(lambda: versions(paths)) if stored else None

    def ensure() -> None:
        if not listing.is_current(folder, paths, sha256, asked):
            listing.write(folder, paths, listing.scan_all(paths, fields, sha256))

    if is_main():
        ensure()
    barrier()
    if not is_main():
        ensure()  # a node with its own cache builds its own
    return TarCaptions(folder, paths, field)


def _hash_of(path: str | Path) -> str | None:
    """SHA-256 of a shard; None if it is gone."""
    try:
        return shard_sha256(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read shard {public_path(path)}: {error.strerror}") from None
