"""A folder of official files, or of the hub's tables: what is there, what is missing, what cannot be read."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bridge.data import hub
from bridge.data.example import Example
from bridge.data.pictures import Picture, TableImage, open_picture, reading_order
from checks.official import DataSet, Need, Split
from vlm.errors import UserError
from vlm.images import ImageError
from vlm.run.progress import progress

SHOWN = 3  # examples of missing or unreadable images
_DANGLING = " (a link that leads nowhere)"


@dataclass
class Found:
    """What the folder holds of a split. `problem` is empty if it can be used; `absent` are the needs not met."""

    split: Split
    questions: int = 0
    unanswered: int = 0
    images: list[Picture] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    checked: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    absent: list[Need] = field(default_factory=list)
    problem: str = ""

    @property
    def use(self) -> str:
        """training, evaluation or submission: a split that is submitted officially may come with answers."""
        if self.split.use == "training":
            return "training"
        return "submission" if self.unanswered else "evaluation"

    def as_json(self) -> dict:
        """What the report's JSON file has of this split."""
        return {
            "split": self.split.name,
            "use": self.use,
            "ready": not self.problem,
            "problem": self.problem,
            "questions": self.questions,
            "official_questions": list(self.split.questions),
            "unanswered": self.unanswered,
            "images": len(self.images),
            "official_images": self.split.images,
            "missing_images": [str(path) for path in self.missing],
            "checked_images": self.checked,
            "unreadable_images": self.unreadable,
            "absent": [need.path for need in self.absent],
        }


def read_split(data: DataSet, folder: Path, split: Split) -> Found:
    """The split as training would read it, or as evaluation would read and score it.

    The hub's tables stand for every official file: which of them are missing, their reader says.
    """
    found = Found(split)
    if hub.find_root(folder, ()) is None:
        found.absent = [need for need in split.needs if not need.is_met(folder)]
    required = [need for need in split.needs if not need.optional]
    lacking = [need for need in required if need in found.absent]
    if lacking:
        found.problem = f"{len(lacking)} of its {len(required)} parts missing"
        return found
    read = data.read if split.use == "training" else data.evaluate
    try:
        examples = read(folder, split.name)
        _locate(examples, found)
    except UserError as error:
        found.problem = str(error)
        return found
    found.questions = len(examples)
    found.unanswered = sum(not example.answer for example in examples)
    if found.missing:
        found.problem = f"{len(found.missing):,} images missing"
    elif found.unanswered and split.use != "submission":
        found.problem = f"{found.unanswered:,} questions have no answer"
    return found


def _locate(examples: Sequence[Example], found: Found) -> None:
    """Sort the split's images into those that are there and those that are not, listing each folder once."""
    listings: dict[Path, frozenset[str]] = {}
    for image in dict.fromkeys(example.image for example in examples):
        found.images.append(image)
        if isinstance(image, TableImage):  # a row that was read, so it is there
            continue
        if image.parent not in listings:
            listings[image.parent] = _files(image.parent)
        if image.name not in listings[image.parent]:
            found.missing.append(image)


def _files(folder: Path) -> frozenset[str]:
    """The names of the folder's files: neither folders nor links that lead nowhere can be read as images."""
    if not folder.is_dir():
        return frozenset()
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if _is_file(entry))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or to where we may not look
        return False


def decode_images(splits: Sequence[Found], count: int | None) -> None:
    """Decode the images of the splits, or `count` of each split spread evenly over it, as training would."""
    chosen: dict[str, list[Picture]] = {}
    for found in splits:
        chosen[found.split.name] = _spread(_in_order(set(found.images) - set(found.missing)), count)
    every = _in_order(set().union(*chosen.values()))
    reasons: dict[Picture, str] = {}
    with (
        progress(len(every), "decoding", "image") as bar,
        ThreadPoolExecutor(min(32, (os.cpu_count() or 1) * 2)) as pool,  # Pillow decodes without the GIL
    ):
        for picture, reason in zip(every, pool.map(_reason, every)):
            if reason:
                reasons[picture] = reason
            bar.update()
    for found in splits:
        pictures = chosen[found.split.name]
        found.checked = len(pictures)
        found.unreadable = {str(picture): reasons[picture] for picture in pictures if picture in reasons}
        if found.unreadable and not found.problem:
            found.problem = f"{len(found.unreadable):,} images cannot be read"


def _in_order(pictures: Iterable[Picture]) -> list[Picture]:
    """By name; those of tables in the order in which they lie there, so that each row group is read once."""
    return sorted(pictures, key=lambda picture: (reading_order(picture), str(picture)))


def _spread(pictures: list[Picture], count: int | None) -> list[Picture]:
    if count is None or count >= len(pictures):
        return pictures
    return [pictures[index * len(pictures) // count] for index in range(count)]


def _reason(picture: Picture) -> str:
    """Why an image cannot be read, or nothing. Without its place, so that equal reasons are counted as one."""
    try:
        open_picture(picture)
    except ImageError as error:
        return error.reason
    except UserError as error:
        return str(error).replace(f" {picture}", "")
    return ""


def is_official(found: Found) -> bool:
    """Whether the counts are the published ones."""
    split = found.split
    return found.questions in split.questions and split.images in (None, len(found.images))


def image_notes(found: Found) -> list[str]:
    """A few of the images that are missing or cannot be read."""
    notes = []
    if found.missing:
        names = ", ".join(f"{path}{_DANGLING if path.is_symlink() else ''}" for path in found.missing[:SHOWN])
        notes.append(f"{found.split.name}: {len(found.missing):,} images missing, the first: {names}")
    if found.unreadable:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(found.unreadable.values()).most_common())
        notes.append(f"{found.split.name}: {reasons}, the first: {', '.join(list(found.unreadable)[:SHOWN])}")
    return notes
