"""A plain folder of images with their captions beside them: KEY.jpg and KEY.txt, in any folders below it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.captions import CAPTION_BYTES, BadSample, Caption, field_names, from_json, text_fields
from pretrain.data.pairs import Captions, fingerprint_rows
from pretrain.data.samples import LARGEST_CAPTION, LARGEST_IMAGE, Fields, Member, group, split_last
from vlm.errors import UserError
from vlm.reading import open_regular

# Images of kinds that are not read: without them such a file would be no sample and missed by nobody.
OTHER_IMAGES = ("gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jfif", "jxl", "jp2")


class FolderCaptions(Captions):
    """Image-caption pairs in files, each folder a shard. field: of the caption in its JSON, as for `TarCaptions`.

    Raises: UserError if there is no pair.
    """

    def __init__(self, root: Path, names: Sequence[str], fields: Fields, field: str | None = None):
        """names: of the files below the root."""
        self.root, self.field = root, field
        self.names: list[str] = []  # of the shards: folders below the root
        self.pairs: list[tuple[str, str, str, int]] = []  # key, image and caption below the root, index in the shard
        self.bad: list[dict] = []
        counts: list[int] = []
        # img2dataset's statistics of a shard are no captions.
        names = sorted((name for name in names if not name.endswith("_stats.json")), key=_folder_and_name)
        others = Fields(fields.images, (*fields.captions, *OTHER_IMAGES))  # so that each is a sample, if a faulty one
        for shard, inside in groupby(names, key=lambda name: _folder_and_name(name)[0]):
            members = [Member(name, 0, 0) for name in inside]
            before, samples = len(self.pairs), group(members, others, last_dot=True)
            if not samples:
                continue
            for index, sample in enumerate(samples):
                place = {"shard": shard, "index": index, "key": sample.key}
                kinds = {member.name.rpartition(".")[2].lower() for member in sample.captions}
                unread = sorted(kinds & {*OTHER_IMAGES})
                if unread:  # no caption, but an image that is not read
                    reason = "no caption" if sample.images else f"no .{unread[0]} images are read"
                    self.bad.append(place | {"reason": reason})
                elif reason := sample.fault():
                    self.bad.append(place | {"reason": reason})
                else:
                    self.pairs.append((sample.key, sample.images[0].name, sample.captions[0].name, index))
            self.names.append(shard)
            counts.append(len(self.pairs) - before)
        self.counts = np.array(counts, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        if not self.pairs:
            self._refuse(names, fields)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' names, the captions' field, and a few pairs' content."""
        digest = hashlib.sha256(json.dumps([self.pairs, self.field]).encode())
        for number in fingerprint_rows(len(self)):
            _, image, caption, _ = self.pairs[number]
            for name in (image, caption):
                with suppress(OSError, BadSample):  # training will list it as bad, if it is drawn
                    digest.update(hashlib.sha256(_content(self.root / name, LARGEST_IMAGE)).digest())
        return digest.hexdigest()

    def read(self, number: int) -> tuple[bytes, Caption]:
        return _content(self.root / self.pairs[number][1], LARGEST_IMAGE), self.caption(number)

    def caption(self, number: int) -> Caption:
        content = _content(self.root / self.pairs[number][2], LARGEST_CAPTION)
        return content[:CAPTION_BYTES] if self.field is None else from_json(content, self.field)

    def document(self, number: int) -> Any:
        """What a caption's JSON holds; None if it is damaged."""
        with suppress(ValueError, RecursionError):
            return json.loads(_content(self.root / self.pairs[number][2], LARGEST_CAPTION))
        return None

    def identify(self, number: int) -> tuple[str, int]:
        """The index counts all samples of the folder, unusable ones too."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.names[shard], self.pairs[number][3]

    def key(self, number: int) -> str:
        return self.pairs[number][0]

    def unusable(self) -> Iterator[dict]:
        return iter(self.bad)

    def reasons(self) -> Counter:
        return Counter(record["reason"] for record in self.bad)

    def _refuse(self, names: list[str], fields: Fields) -> None:
        """Raise `UserError`: what is there instead of a pair, and how to name the captions."""
        counted = ", ".join(f"{count} x {reason}" for reason, count in self.reasons().most_common())
        suffixes = sorted({name.rpartition(".")[2].lower() for name in names if "." in name.rpartition("/")[2]})
        remedy = "put KEY.txt beside KEY.jpg, or name the suffixes with --image-column and --caption-column"
        if advice := self._about_json(names, fields):
            remedy = advice
        found = f"{counted or 'no image'}; its files end in {', '.join(suffixes[:8])}"
        raise UserError(f"{self.root} holds no image-caption pair: {found}; {remedy}")

    def _about_json(self, names: list[str], fields: Fields) -> str | None:
        """How to name captions in JSON, which lie in a KEY.json beside each image, or in a table of them all."""
        keys = {split_last(name, fields)[0] for name in names if split_last(name, fields)[1] in fields.images}
        documents = [name for name in names if name.lower().endswith(".json")]
        for name in sorted(documents, key=lambda name: name[: -len(".json")] not in keys):  # those beside images first
            is_caption = name[: -len(".json")] in keys
            table = f"{name} is the caption of no image: if it is a table, name it itself: --data {self.root / name}"
            try:
                content = json.loads(_content(self.root / name, LARGEST_CAPTION))
            except (OSError, ValueError, RecursionError):
                continue
            except BadSample:  # too large for a caption, not for a table
                content = []
            if found := field_names(content) if is_caption else []:
                return f"{name} has the {text_fields(found)}"
            if not is_caption and isinstance(content, list):
                return table
        return None


def _folder_and_name(name: str) -> tuple[str, str]:
    """`a/b/c.jpg` -> ("a/b", "c.jpg"); of a file in the root itself the folder is "." """
    folder, _, file = name.rpartition("/")
    return folder or ".", file


def _content(path: Path, most: int) -> bytes:
    """The bytes of a regular file. Raises: OSError, and BadSample if it is longer than `most`."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BadSample("file too large")
    return content
