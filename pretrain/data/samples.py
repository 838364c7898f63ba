"""Files by name -> samples: which image belongs to which caption. For the members of a tar, and for a folder.

A sample's files share a key. webdataset's key is the name up to its first dot, and what follows is the field:

    000.jpg  000.txt  000.seg.png              one sample `000` with the fields jpg, txt and seg.png
    v1.01.jpg  v1.01.txt  v1.02.jpg  v1.02.txt      by that rule one sample `v1` without any image

So where whole pairs lie under one such key, or no plain image and caption do, the key goes up to the last known field:
`v1.01` and `v1.02`. The files of a sample need not be neighbours.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vlm.reading import LARGEST_IMAGE

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
CAPTION_SUFFIXES = ("txt",)

LARGEST_CAPTION = 16 * 2**20  # bytes; a sample with a larger file is none


_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$", re.DOTALL)


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    start: int  # of its content, in bytes
    size: int


@dataclass(frozen=True)
class Fields:
    """The fields that are read: lower case, without the dot. Of several captions the first field's is taken."""

    images: Sequence[str] = IMAGE_SUFFIXES
    captions: Sequence[str] = CAPTION_SUFFIXES

    def __contains__(self, name: str) -> bool:
        return name in self.images or name in self.captions


@dataclass
class Sample:
    """The files of one key, in the order in which they lie."""

    key: str
    images: list[Member] = field(default_factory=list)
    captions: list[Member] = field(default_factory=list)
    caption_field: int | None = None  # which of `Fields.captions`
    extra: list[Member] = field(default_factory=list)  # images that are further fields
    last: int = 0  # the number of its last file
    duplicate: bool = False  # an earlier sample has its key
    joined: bool = False  # its files are not neighbours

    def add_caption(self, which: int, member: Member) -> None:
        """Keep a caption of the field number `which`, unless an earlier field has one."""
        if self.caption_field is None or which < self.caption_field:
            self.captions, self.caption_field = [], which
        if which == self.caption_field:
            self.captions.append(member)

    def fault(self) -> str | None:
        """Why it cannot be used, or None: it needs exactly one image and one caption, of a sensible size."""
        if self.duplicate:
            return "duplicate key"
        for kind, found in (("image", self.images), ("caption", self.captions)):
            if len(found) > 1:
                return f"two {kind}s"
            if not found:
                return f"no {kind}"
        if self.images[0].size > LARGEST_IMAGE or self.captions[0].size > LARGEST_CAPTION:
            return "file too large"
        return None


def group(members: Sequence[Member], fields: Fields, last_dot: bool = False) -> list[Sample]:
    """The samples of a tar or folder, in the order of their first files. last_dot: never by webdataset's rule."""
    split = [split_name(member.name) for member in members]
    several = _keys_of_several(members, split, fields)
    runs: list[Sample] = []
    for number, (member, (key, suffix)) in enumerate(zip(members, split)):
        if not suffix:
            continue
        by_last_dot = last_dot or key in several
        if by_last_dot:
            key, suffix = split_last(member.name, fields)
        if not runs or runs[-1].key != key:  # the first file of the next sample
            runs.append(Sample(key))
        run = runs[-1]
        run.last = number
        if suffix in fields.images:
            run.images.append(member)
        elif suffix in fields.captions:
            run.add_caption(fields.captions.index(suffix), member)
        elif "." in suffix and split_last(member.name, fields)[1] in fields.images:
            run.extra.append(member)
    if last_dot or several:  # a file that is no image and no caption is then no sample without an image
        runs = [run for run in runs if run.images or run.captions or not (last_dot or _first_dot(run.key) in several)]
    return _joined(runs)


def split_name(name: str) -> tuple[str, str]:
    """Key and lower-case suffix, cut at the first dot of the file's name as webdataset does; no dot: ("", "")."""
    match = _NAME.match(name)
    return (match[1], match[2].lower()) if match else ("", "")


def split_last(name: str, fields: Fields) -> tuple[str, str]:
    """Key and lower-case suffix, cut before the longest ending that is a known field, else at the last dot."""
    parts = split_name(name)[1].split(".")
    endings = [".".join(parts[number:]) for number in range(len(parts))]  # longest first
    ending = next((ending for ending in endings if ending in fields), endings[-1])
    return name[: len(name) - len(ending) - 1], ending


def _first_dot(key: str) -> str:
    """`v1` of `v1.01`"""
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _keys_of_several(members: Sequence[Member], split: Iterable[tuple[str, str]], fields: Fields) -> set[str]:
    """The keys of webdataset's rule that stand for several samples, with dots in their names."""
    plain: set[str] = set()
    kinds: dict[tuple[str, str], set[str]] = {}  # by webdataset's key and the longer one: "image", "caption"
    for member, (key, suffix) in zip(members, split):
        if suffix in fields:
            plain.add(key)
        elif "." in suffix:
            longer, ending = split_last(member.name, fields)
            if ending in fields:
                kind = "image" if ending in fields.images else "caption"
                kinds.setdefault((key, longer), set()).add(kind)
    return {key for (key, _), found in kinds.items() if len(found) == 2 or key not in plain}


def _joined(runs: list[Sample]) -> list[Sample]:
    """Join the runs of files that share a key, if together they hold no more than one image and one caption.

    All images, then all captions: each key comes twice, once with an image and once with a caption. A key with more
    than that is not trusted: its first run stays, and the later ones are duplicates.
    """
    by_key: dict[str, list[Sample]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    if len(by_key) == len(runs):
        return runs
    for first, *later in by_key.values():
        whole = Sample(first.key)
        for run in (first, *later):
            whole.images += run.images
            if run.caption_field is not None:
                for caption in run.captions:
                    whole.add_caption(run.caption_field, caption)
        if later and len(whole.images) <= 1 and len(whole.captions) <= 1:
            first.images, first.captions, first.caption_field = whole.images, whole.captions, whole.caption_field
            first.extra = [member for run in (first, *later) for member in run.extra]
            first.last, first.joined = later[-1].last, True
        else:
            for run in later:
                run.duplicate = True
    joined = {key for key, parts in by_key.items() if parts[0].joined}
    return [run for run in runs if run.joined or run.key not in joined]
