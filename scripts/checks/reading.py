"""A folder of official files against what is needed: what is there, what is missing, what cannot be read."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bridge.data.example import Example
from checks.official import DataSet, Need, Split
from vlm.errors import UserError
from vlm.images import ImageError, load_image
from vlm.run.progress import progress

SHOWN = 3  # examples of missing or unreadable images
_DANGLING = " (a link that leads nowhere)"


@dataclass
class Found:
    """What the folder holds of a split. `problem` is empty if it can be used; `absent` are the needs not met."""

    split: Split
    questions: int = 0
    unanswered: int = 0
    images: list[Path] = field(default_factory=list)
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
    """The split as training would read it, or as evaluation would read and score it."""
    found = Found(split, absent=[need for need in split.needs if not need.is_met(folder)])
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
    """Sort the split's images into those that are there and those that are not, listing each folder once.

    Raises: UserError if the images are in tables.
    """
    listings: dict[Path, frozenset[str]] = {}
    for image in dict.fromkeys(example.image for example in examples):
        if not isinstance(image, Path):
            raise UserError(f"{image.file} is a table of the hub, which is read in place of the official files")
        if image.parent not in listings:
            listings[image.parent] = _files(image.parent)
        found.images.append(image)
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
    chosen: dict[str, list[Path]] = {}
    for found in splits:
        there = sorted(set(found.images) - set(found.missing))
        chosen[found.split.name] = _spread(there, count)
    every = sorted(set().union(*chosen.values()))
    reasons: dict[Path, str] = {}
    with (
        progress(len(every), "decoding", "image") as bar,
        ThreadPoolExecutor(min(32, (os.cpu_count() or 1) * 2)) as pool,  # Pillow decodes without the GIL
    ):
        for path, reason in zip(every, pool.map(_reason, every)):
            if reason:
                reasons[path] = reason
            bar.update()
    for found in splits:
        found.checked = len(chosen[found.split.name])
        found.unreadable = {str(path): reasons[path] for path in chosen[found.split.name] if path in reasons}
        if found.unreadable and not found.problem:
            found.problem = f"{len(found.unreadable):,} images cannot be read"


def _spread(paths: list[Path], count: int | None) -> list[Path]:
    if count is None or count >= len(paths):
        return paths
    return [paths[index * len(paths) // count] for index in range(count)]


def _reason(path: Path) -> str:
    """Why an image cannot be read, or nothing. Without its path, so that equal reasons are counted as one."""
    try:
        load_image(path)
    except ImageError as error:
        return error.reason
    except UserError as error:
        return str(error).replace(f" {path}", "")
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
