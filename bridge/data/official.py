"""Official question files of GQA, VQAv2 and POPE, read as they are downloaded.

Two steps, so that a file is parsed once whatever it is used for. First a file becomes records by question id
(`gqa_records`, `vqav2_records`, `pope_records`), which is all that scoring needs; then the records of a folder meet
their images and become `Example`s, which are trained on and asked.

Layouts: `GQA/{split}_questions.json` + `GQA/images/{imageId}.jpg`; `VQAV2/v2_OpenEnded_mscoco_{split}_questions.json`,
`VQAV2/v2_mscoco_{split}_annotations.json` + `VQAV2/train2014/COCO_train2014_{id:012d}.jpg`;
`POPE/coco_pope_{category}.json` + `POPE/val2014/`. A `.png` in place of a `.jpg` is accepted everywhere, and so are
COCO's folders and names of 2017. The hub's tables (`bridge.data.hub`) give the same records.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from bridge.data import hub
from bridge.data.example import Example
from bridge.data.image_folder import CocoFolder, ImageFolder, Images
from bridge.data.records import field, text_field
from vlm.errors import UserError
from vlm.files import read_records
from vlm.reading import open_regular

POPE_CATEGORIES = ("random", "popular", "adversarial")

Records = dict[str, dict[str, Any]]  # question id, always a string -> the official record


def gqa(directory: str | Path, split: str, allow_missing: bool = False) -> list[Example]:
    """The questions of `read_gqa`."""
    return read_gqa(directory, split, allow_missing)[0]


def vqav2(directory: str | Path, split: str, allow_missing: bool = False) -> list[Example]:
    """The questions of `read_vqav2`."""
    return read_vqav2(directory, split, allow_missing)[0]


def read_gqa(directory: str | Path, split: str, allow_missing: bool = False) -> tuple[list[Example], Records]:
    """Questions and records of GQA's `split`: train, val, testdev (balanced) or a full name such as val_all.

    A folder `{split}_questions/` of chunks stands for the file, as train_all is distributed. With `allow_missing`,
    examples without an image file stay in the list.
    Raises: UserError if a file or folder is missing, or what it holds is broken; so do the other readers.
    """
    name = gqa_split(split)
    if root := hub.find_root(directory, [f"{name}_instructions/*", f"{name}_images/*"]):
        return _read_hub_gqa(hub.gqa(root, name), allow_missing)
    directory = folder_of(directory, "GQA")
    file = directory / f"{name}_questions.json"
    if not gqa_files(file):
        raise UserError(f"{file} is missing: download questions1.2.zip from cs.stanford.edu/people/dorarad/gqa")
    images = ImageFolder(directory / "images", links=True)
    records = gqa_records(file)
    examples = []
    for key, record in records.items():
        where = f"{file}, question {key}"
        answer = text_field(record, "answer", where) if "answer" in record else None
        image = images.find(str(field(record, "imageId", (str, int), where)) + ".jpg")
        examples.append(Example(key, image, text_field(record, "question", where), answer))
    return _checked(examples, images, file, allow_missing), records


def read_vqav2(directory: str | Path, split: str, allow_missing: bool = False) -> tuple[list[Example], Records]:
    """Questions and annotations of VQAv2's `split`: train2014, val2014, test-dev2015, test2015, minival2014, ...

    The answer is `multiple_choice_answer` (the most common of the ten), None if the split has no annotation file.
    Images of test-dev2015 lie in test2015/, those of minival2014 in val2014/.
    """
    subtype = vqav2_subtype(split)
    if root := hub.find_root(directory, [f"*/{hub.VQAV2_SPLITS.get(split, split)}-*"]):
        return _read_hub_vqav2(hub.vqav2(root, split, subtype), subtype, allow_missing)
    directory = folder_of(directory, "VQAv2")
    file = directory / f"v2_OpenEnded_mscoco_{split}_questions.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: download the v2 questions from visualqa.org/download.html")
    annotation_file = directory / f"v2_mscoco_{split}_annotations.json"
    annotations = vqav2_records(annotation_file, "annotations") if annotation_file.is_file() else None
    images = CocoFolder(directory, subtype)
    examples = []
    for key, record in vqav2_records(file, "questions").items():
        where = f"{file}, question {key}"
        image = images.find(f"COCO_{subtype}_{field(record, 'image_id', (int,), where):012d}.jpg")
        answer, votes = (None, ()) if annotations is None else _answers(annotations, key, annotation_file)
        examples.append(Example(key, image, text_field(record, "question", where), answer, votes))
    return _checked(examples, images, file, allow_missing), annotations or {}


def pope(directory: str | Path, category: str, allow_missing: bool = False) -> list[Example]:
    """POPE's questions of one category (random, popular, adversarial) in file order; the answer is the label."""
    if root := hub.find_root(directory, ["data/test-*"]):
        return _read_hub_pope(hub.pope(root, category), category, allow_missing)
    directory = folder_of(directory, "POPE")
    file = directory / f"coco_pope_{category}.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: fetch output/coco/ of github.com/AoiDragon/POPE")
    images = CocoFolder(directory, "val2014")
    examples = []
    for number, (key, record) in enumerate(pope_records(file).items(), start=1):
        where = f"{file}, line {number} (question {key})"
        label = pope_label(record, where) if "label" in record else None
        image = images.find(text_field(record, "image", where))
        question = text_field(record, "question" if "question" in record and "text" not in record else "text", where)
        examples.append(Example(key, image, question, label))
    return _checked(examples, images, file, allow_missing)


def gqa_choices(directory: str | Path, split: str) -> Records | None:
    """The choices of GQA's `split`, if their file or the folder of its chunks lies beside the questions."""
    file = gqa_choices_file(directory, split)
    return gqa_records(file) if gqa_files(file) else None


def gqa_choices_file(directory: str | Path, split: str) -> Path:
    """The choices file of GQA's `split`: val_choices.json for val_all. Its chunks, if it has, lie in val_choices/."""
    return Path(directory).expanduser() / f"{split.split('_')[0]}_choices.json"


def gqa_files(path: Path) -> list[Path]:
    """The file `path`; or the chunks in the folder `path`, or in `NAME/` for NAME.json, as train_all is distributed."""
    if path.is_file():
        return [path]
    chunks = (path if path.is_dir() else path.with_suffix("")).glob("*.json")
    return sorted(file for file in chunks if not file.name.startswith("."))  # ._NAME.json is what a Mac adds


def gqa_records(path: Path) -> Records:
    """The records of a questions or choices file of GQA, or of all its chunks (`gqa_files`).

    Raises: UserError if there is no file, one is of another kind, or two chunks hold the same id.
    """
    files = gqa_files(path)
    if not files:
        problem = "has no .json files" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}; give a GQA questions or choices file, or the folder of its chunks")
    merged: Records = {}
    for part in files:
        records = read_records(part)
        if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
            raise UserError(f"{part} is not a GQA file: needed is one object, question id -> record")
        if repeated := merged.keys() & records.keys():
            raise UserError(f"{part} repeats {len(repeated)} questions of another chunk, the first: {min(repeated)}")
        merged |= records
    return merged


def gqa_ids(path: Path) -> list[str]:
    """The question ids of a questions file of GQA, or of all its chunks: submission_all's 4.2 million fit in memory."""
    ids: list[str] = []

    def keys(pairs: list[tuple[str, Any]]) -> Any:
        """Of the outermost object its keys; of a record, which holds a question, nothing."""
        return None if any(name == "question" for name, _ in pairs) else [name for name, _ in pairs]

    for part in gqa_files(path):
        try:
            with open_regular(part) as file:
                found = json.loads(file.read(), object_pairs_hook=keys)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{part} is not valid JSON ({error}): fetch it again") from None
        if not isinstance(found, list):
            raise UserError(f"{part} is not a GQA file: needed is one object, question id -> record")
        ids += found
    return ids


def vqav2_records(file: Path, kind: Literal["questions", "annotations"]) -> Records:
    """The records of a questions or annotations file of VQAv2, in file order; the bare list or its lines do as well."""
    document = read_records(file)
    records = document.get(kind) if isinstance(document, dict) else document
    if not isinstance(records, list):
        raise UserError(f"{file} is not an official VQAv2 file: it needs a list under {kind!r}")
    return _by_id(records, file)


def pope_records(file: Path) -> Records:
    """The lines of a questions file of POPE, in file order; a JSON list of them does as well."""
    records = read_records(file)
    return _by_id(records if isinstance(records, list) else [records], file)


def pope_label(record: dict[str, Any], where: str) -> str:
    """The label of a line of POPE, "yes" or "no" however it is capitalised; any other value is a UserError."""
    label = text_field(record, "label", where)
    if label.strip().lower() not in ("yes", "no"):
        raise UserError(f"{where}: the label {label!r} is neither yes nor no; correct it")
    return label.strip().lower()


def _by_id(records: Iterable[dict[str, Any]], file: Path) -> Records:
    found: Records = {}
    repeated: set[str] = set()
    for number, record in enumerate(records, start=1):
        key = str(field(record, "question_id", (int, str), f"{file}, record {number}"))
        if key in found:
            repeated.add(key)
        found[key] = record
    if repeated:
        raise UserError(f"{file}: {len(repeated)} question ids occur more than once, the first: {min(repeated)}")
    return found


def _answers(annotations: Records, key: str, file: Path) -> tuple[str, tuple[str, ...]]:
    """The most common answer to the question `key` of VQAv2, and all annotators' answers. file: of the annotations."""
    if key not in annotations:
        raise UserError(f"{file} has no annotation of question {key}: the two files do not belong together")
    annotation, where = annotations[key], f"{file}, question {key}"
    votes = tuple(text_field(vote, "answer", where) for vote in field(annotation, "answers", (list,), where))
    return text_field(annotation, "multiple_choice_answer", where), votes


def _checked(examples: list[Example], images: Images, file: Path, allow_missing: bool) -> list[Example]:
    """Return `examples` as they are. Raises: UserError if there are none, or images are missing and may not be."""
    if not examples:
        raise UserError(f"{file} holds no question about an image")
    if images.missing and not allow_missing:
        total = len({example.image for example in examples})
        raise UserError(
            f"{len(images.missing)} of {total} images that {file} asks about are missing, the first: "
            f"{min(images.missing)}; complete the folder"
        )
    return examples


def folder_of(directory: str | Path, name: str) -> Path:
    """The folder of a data set, `~` expanded. Raises: UserError if there is none."""
    if not Path(directory).expanduser().is_dir():
        raise UserError(f"{directory} is not a folder: {name} needs its question files and images in one folder")
    return Path(directory).expanduser()


def gqa_split(split: str) -> str:
    """train -> train_balanced; a full name stays."""
    return split if split.endswith(("_balanced", "_all")) else f"{split}_balanced"


def vqav2_subtype(split: str) -> str:
    """The COCO folder of a split's images."""
    return split.replace("test-dev", "test").replace("minival", "val")


def _read_hub_gqa(split: hub.HubSplit, allow_missing: bool) -> tuple[list[Example], Records]:
    records, images, examples = _unique(split), split.images(), []
    for key, record in records.items():
        where = f"{split.files[0].parent}, question {key}"
        answer = text_field(record, "answer", where) if record.get("answer") is not None else None
        image = images.find(str(field(record, "imageId", (str, int), where)) + ".jpg")
        examples.append(Example(key, image, text_field(record, "question", where), answer))
    return _checked(examples, images, split.files[0].parent, allow_missing), records


def _read_hub_vqav2(split: hub.HubSplit, subtype: str, allow_missing: bool) -> tuple[list[Example], Records]:
    records, images, examples = _unique(split), split.images(), []
    annotated = all(record.get("answers") for record in records.values())
    for key, record in records.items():
        where = f"{split.files[0].parent}, question {key}"
        image = images.find(f"COCO_{subtype}_{int(field(record, 'image_id', (int, str), where)):012d}.jpg")
        answer, votes = _answers(records, key, split.files[0]) if annotated else (None, ())
        examples.append(Example(key, image, text_field(record, "question", where), answer, votes))
    return _checked(examples, images, split.files[0].parent, allow_missing), records if annotated else {}


def _read_hub_pope(split: hub.HubSplit, category: str, allow_missing: bool) -> list[Example]:
    records, images, examples = _unique(split), split.images(), []
    for key, record in records.items():
        where = f"{split.files[0]}, {category} question {key}"
        label = text_field(record, "label", where) if record.get("label") is not None else None
        image = images.find(text_field(record, "image", where))
        examples.append(Example(key, image, text_field(record, "text", where), label))
    return _checked(examples, images, split.files[0].parent, allow_missing)


def _unique(split: hub.HubSplit) -> Records:
    found: Records = {}
    for key, record in split.records():
        if key in found:
            raise UserError(f"{split.files[0].parent}: question {key} occurs more than once")
        found[key] = record
    return found
