"""Official question files -> `Example`: GQA, VQAv2, POPE and LLaVA's instruction files, read as they are downloaded.

Layouts: `GQA/{split}_questions.json` + `GQA/images/{imageId}.jpg`; `VQAV2/v2_OpenEnded_mscoco_{split}_questions.json`,
`VQAV2/v2_mscoco_{split}_annotations.json` + `VQAV2/train2014/COCO_train2014_{id:012d}.jpg`;
`POPE/coco_pope_{category}.json` + `POPE/val2014/`. A `.png` in place of a `.jpg` is accepted everywhere.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bridge.data.example import Example
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl

POPE_CATEGORIES = ("random", "popular", "adversarial")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def gqa_questions_file(directory: str | Path, split: str) -> Path:
    """Where a split's questions lie. split: train, val, testdev (balanced) or a full name such as val_all."""
    name = split if split.endswith(("_balanced", "_all")) else f"{split}_balanced"
    return Path(directory) / f"{name}_questions.json"


def gqa_files(path: Path) -> list[Path]:
    """The file `path`; or the chunks in the folder `path`, or in `NAME/` for NAME.json, as train_all is distributed."""
    if path.is_file():
        return [path]
    return sorted((path if path.is_dir() else path.with_suffix("")).glob("*.json"))


def gqa_records(path: Path) -> dict[str, dict]:
    """Id -> record of all of `gqa_files`; UserError for another kind of file, or an id that two of them hold."""
    merged: dict[str, dict] = {}
    for part in gqa_files(path):
        records = read_json(part)
        if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
            raise UserError(f"{part} is not a GQA file: needed is one object, question id -> record")
        if repeated := merged.keys() & records.keys():
            raise UserError(f"{part} repeats {len(repeated)} questions of another chunk, the first: {min(repeated)}")
        merged |= records
    return merged


def gqa(directory: str | Path, split: str, allow_missing: bool = False) -> list[Example]:
    """GQA questions of `split`: train, val, testdev (balanced) or a full name such as val_all.

    A folder `{split}_questions/` of chunks stands for the file, as train_all is distributed. Raises UserError for what
    is missing or broken; with `allow_missing`, examples without an image file stay in the list.
    """
    directory = _directory(directory, "GQA")
    file = gqa_questions_file(directory, split)
    if not gqa_files(file):
        raise UserError(f"{file} is missing: download questions1.2.zip from cs.stanford.edu/people/dorarad/gqa")
    folder = _Folder(directory / "images")
    examples = []
    for key, record in gqa_records(file).items():
        where = f"{file}, question {key}"
        answer = _text(record, "answer", where) if "answer" in record else None
        image = folder.find(str(_field(record, "imageId", (str, int), where)) + ".jpg")
        examples.append(Example(key, image, _text(record, "question", where), answer))
    return _checked(examples, folder, file, allow_missing)


def vqav2(directory: str | Path, split: str, allow_missing: bool = False) -> list[Example]:
    """VQAv2 questions of `split`: train2014, val2014, test-dev2015, test2015, minival2014, ...

    The answer is `multiple_choice_answer` (the most common of the ten), None where the split has no annotation file.
    Images of test-dev2015 lie in test2015/, those of minival2014 in val2014/. Errors as in `gqa`.
    """
    directory = _directory(directory, "VQAv2")
    file = directory / f"v2_OpenEnded_mscoco_{split}_questions.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: download the v2 questions from visualqa.org/download.html")
    annotation_file = directory / f"v2_mscoco_{split}_annotations.json"
    annotations = _annotations(annotation_file)
    subtype = split.replace("test-dev", "test").replace("minival", "val")
    folder = _Folder(directory / subtype)
    examples = []
    for record in _records(file, "questions"):
        key = str(_field(record, "question_id", (int, str), str(file)))
        where = f"{file}, question {key}"
        image = folder.find(f"COCO_{subtype}_{_field(record, 'image_id', (int,), where):012d}.jpg")
        if annotations is not None and key not in annotations:
            raise UserError(
                f"{annotation_file} has no annotation of question {key}: the two files do not belong together"
            )
        answer, votes = (None, ()) if annotations is None else annotations[key]
        examples.append(Example(key, image, _text(record, "question", where), answer, votes))
    return _checked(examples, folder, file, allow_missing)


def pope(directory: str | Path, category: str, allow_missing: bool = False) -> list[Example]:
    """POPE questions of one category (random, popular, adversarial) in file order; the answer is the label."""
    directory = _directory(directory, "POPE")
    file = directory / f"coco_pope_{category}.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: fetch output/coco/ of github.com/AoiDragon/POPE")
    folder = _Folder(directory / "val2014")
    examples = []
    for number, record in enumerate(read_jsonl(file, complete=True), start=1):
        where = f"{file}, line {number}"
        key = str(_field(record, "question_id", (int, str), where))
        label = _text(record, "label", where) if "label" in record else None
        examples.append(Example(key, folder.find(_text(record, "image", where)), _text(record, "text", where), label))
    return _checked(examples, folder, file, allow_missing)


class _Folder:
    """Image files below `root`, each folder listed once: a million `stat` calls on a network disk take minutes."""

    def __init__(self, root: Path):
        if not root.is_dir():
            raise UserError(
                f"the image folder {root} is missing: the images belong there, see the data set's download page"
            )
        self.root = root
        self.missing: set[Path] = set()
        self._listings: dict[Path, frozenset[str]] = {}
        self._found: dict[str, Path] = {}

    def find(self, name: str) -> Path:
        """The path of `name` or of its twin with another image suffix; where there is none it goes to `missing`."""
        if name not in self._found:
            path = self.root / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"image name {name!r} leads out of {self.root}: names must lie inside the image folder")
            listing = self._listing(path.parent)
            twins = [path.name, *(path.stem + suffix for suffix in _IMAGE_SUFFIXES)]
            present = [path.with_name(twin) for twin in twins if twin in listing]
            if not present:
                self.missing.add(path)
            self._found[name] = present[0] if present else path
        return self._found[name]

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            self._listings[folder] = frozenset(os.listdir(folder) if folder.is_dir() else ())
        return self._listings[folder]


def _checked(examples: list[Example], folder: _Folder, file: Path, allow_missing: bool) -> list[Example]:
    if not examples:
        raise UserError(f"{file} holds no question about an image")
    repeated = [key for key, count in Counter(example.question_id for example in examples).items() if count > 1]
    if repeated:
        raise UserError(f"{file}: {len(repeated)} question ids occur more than once, the first: {repeated[0]}")
    if folder.missing and not allow_missing:
        total = len({example.image for example in examples})
        raise UserError(
            f"{len(folder.missing)} of {total} images that {file} asks about are missing, the first: "
            f"{min(folder.missing)}; complete the folder"
        )
    return examples


def _directory(directory: str | Path, name: str) -> Path:
    if not Path(directory).is_dir():
        raise UserError(f"{directory} is not a folder: {name} needs its question files and images in one folder")
    return Path(directory)


def _annotations(file: Path) -> dict[str, tuple[str, tuple[str, ...]]] | None:
    """question id -> (most common answer, all answers); None where the file does not exist."""
    if not file.is_file():
        return None
    found = {}
    for record in _records(file, "annotations"):
        key = str(_field(record, "question_id", (int, str), str(file)))
        where = f"{file}, question {key}"
        votes = tuple(_text(vote, "answer", where) for vote in _field(record, "answers", (list,), where))
        found[key] = (_text(record, "multiple_choice_answer", where), votes)
    return found


def _records(file: Path, name: str) -> Iterator[dict]:
    document = read_json(file)
    if not isinstance(document, dict) or not isinstance(document.get(name), list):
        raise UserError(f"{file} is not an official VQAv2 file: it needs a list under {name!r}")
    yield from document[name]


def _field(record: Any, name: str, kinds: Iterable[type], where: str) -> Any:
    if not isinstance(record, dict) or not isinstance(record.get(name), tuple(kinds)):
        kind = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{where}: the field {name!r} ({kind}) is missing or of another kind")
    return record[name]


def _text(record: Any, name: str, where: str) -> str:
    text = _field(record, name, (str,), where)
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a character, which no tokenizer takes
        raise UserError(f"{where}: the field {name!r} is not valid Unicode text ({text[:40]!a})") from None
    return text
