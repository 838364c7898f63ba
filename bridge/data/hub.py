"""GQA, VQAv2 and POPE as lmms-lab keeps them on the hub: parquet tables with the images in their rows.

    lmms-lab/GQA      {split}_instructions/*.parquet (id, imageId, question, answer, ...) and {split}_images/*.parquet
                      (id, image), with a split such as train_balanced
    lmms-lab/VQAv2    data/{validation,testdev,test}-*.parquet: a row a question, with its image
    lmms-lab/POPE     data/test-*.parquet with a column `category`, or Full/{category}-*.parquet

Rows become the records that the official files hold, so that everything behind works alike. An image that stands in
many rows is known by the first of them. Tables are read row group by row group; nothing is written.
"""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bridge.data.pictures import Picture, TableImage
from vlm.errors import UserError
from vlm.hub import is_hub_id, snapshot
from vlm.reading import check_regular

Record = dict[str, Any]
VQAV2_SPLITS = {"val2014": "validation", "test-dev2015": "testdev", "test2015": "test", "train2014": "train"}
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")


class TableImages:
    """The images of a split by name, as `ImageFolder` has those of a folder. `missing`: looked for in vain."""

    def __init__(self, files: Sequence[Path], column: str, name_of: Callable[[Any], str]):
        """column: what names a row's image. name_of: its value -> the name that the official file has."""
        self.root, self.missing = files[0].parent, set[Path]()
        self._places: dict[str, TableImage] = {}
        for file in files:
            for row, record in enumerate(_rows(file, [column])):
                name = name_of(record[column])
                self._places.setdefault(name, TableImage(file, row, name))

    def find(self, name: str) -> Picture:
        if name not in self._places:
            self.missing.add(self.root / name)
            return self.root / name
        return self._places[name]


@dataclass(frozen=True)
class HubSplit:
    """One split. images() reads which rows hold them; records() yields (id, record) in the order of the table."""

    files: tuple[Path, ...]
    question_files: tuple[Path, ...]
    images: Callable[[], TableImages]
    records: Callable[[], Iterator[tuple[str, Record]]]
    columns: tuple[str, ...] = ()  # what training needs of a row; the first is its id

    def questions(self) -> Iterator[tuple[str, Record]]:
        """(id, record) with the columns that training needs."""
        for file in self.question_files:
            for record in _rows(file, self.columns):
                yield str(record[self.columns[0]]), record


def gqa(root: Path, name: str) -> HubSplit:
    """name: such as testdev_balanced."""
    questions, images = shards(root, f"{name}_instructions"), shards(root, f"{name}_images")

    def records() -> Iterator[tuple[str, Record]]:
        for file in questions:
            for row, record in enumerate(_rows(file, None, leave_out=("image",))):
                for listed in ("entailed", "equivalent"):  # the hub's table holds them as text
                    record[listed] = _listed(record.get(listed), f"{file}, row {row}, {listed}")
                yield str(_cell(record, "id", file, row)), record

    needed = ("id", "imageId", "question", "answer")
    found = partial(TableImages, images, "id", lambda key: f"{key}.jpg")
    return HubSplit((*questions, *images), tuple(questions), found, records, needed)


def vqav2(root: Path, split: str, subtype: str) -> HubSplit:
    """subtype: of the image names, COCO_{subtype}_{id:012d}.jpg. Records are annotations with their question."""
    table = VQAV2_SPLITS.get(split, split)
    files = shards(root, "data", table, otherwise=_no_split(root, split))

    def records() -> Iterator[tuple[str, Record]]:
        for file in files:
            for row, record in enumerate(_rows(file, None, leave_out=("image",))):
                yield str(_cell(record, "question_id", file, row)), record

    def named(key: Any) -> str:
        return f"COCO_{subtype}_{int(key):012d}.jpg"

    needed = ("question_id", "image_id", "question", "multiple_choice_answer", "answers")
    found = partial(TableImages, files, "image_id", named)
    return HubSplit(tuple(files), tuple(files), found, records, needed)


def pope(root: Path, category: str) -> HubSplit:
    """category: random, popular or adversarial. They ask about the same images, so that the tables of all that are
    there name an image: it is one picture in every category.
    """
    full = sorted(root.glob("Full/*.parquet")) if list(root.glob(f"Full/{category}-*.parquet")) else []
    files = shards(root, "Full", category) if full else shards(root, "data", "test")

    def records() -> Iterator[tuple[str, Record]]:
        for file in files:
            for row, record in enumerate(_rows(file, None, leave_out=("image",))):
                if full or record.get("category") == category:
                    image, text = _coco_name(record.get("image_source")), record.get("question")
                    line = {"text": text, "label": record.get("answer"), "image": image}
                    yield str(_cell(record, "question_id", file, row)), line

    found = partial(TableImages, full or files, "image_source", _coco_name)
    return HubSplit(tuple(files), tuple(files), found, records)


def find_root(given: str | Path, patterns: Sequence[str]) -> Path | None:
    """The folder with the tables that `given` names: a folder, a repository in the hub cache, or a hub id.

    None if it is a folder of another layout. patterns: the tables that are needed, fetched from the hub if `given` is
    an id; what is fetched already is not fetched again.
    Raises: UserError if the hub has no such data set, or cannot be reached.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        if (folder / "snapshots").is_dir():
            folder = _cached_snapshot(folder)
        return folder if next(folder.glob("*/*.parquet"), None) or next(folder.glob("*.parquet"), None) else None
    if not is_hub_id(str(given)):
        return None
    return snapshot(str(given), patterns, "dataset", "give the path of a folder")


def _cached_snapshot(repository: Path) -> Path:
    """The snapshot that `main` of a repository in the hub cache points to, or else the newest."""
    main = repository / "refs/main"
    if main.is_file() and (found := repository / "snapshots" / main.read_text().strip()).is_dir():
        return found
    return max((repository / "snapshots").iterdir(), key=lambda folder: folder.stat().st_mtime)


def shards(root: Path, config: str, split: str | None = None, otherwise: str = "") -> list[Path]:
    """The files CONFIG/SPLIT-00000-of-0000N.parquet in order. split: None takes whichever the config has.

    Raises: UserError if there is none, or one of the N is missing. otherwise: what to say if there is none.
    """
    folders = [root / config] + ([root] if config == "data" or root.name == config else [])
    found: list[Path] = []
    for folder in folders:
        wanted = f"{split}-*.parquet" if split else "*.parquet"
        found = found or sorted(folder.glob(wanted)) or sorted(folder.glob(f"{split}.parquet"))
    if not found:
        there = sorted({str(file.parent.relative_to(root)) for file in root.rglob("*.parquet")})
        raise UserError(otherwise or f"{root} has no tables {config}/{split or '*'}-*.parquet, only {there[:8]}")
    numbers: dict[tuple[str, int], set[int]] = {}
    for file in found:
        if shard := _SHARD.fullmatch(file.name):
            numbers.setdefault((shard["split"], int(shard["count"])), set()).add(int(shard["number"]))
    for (name, count), present in numbers.items():
        if lacking := sorted(set(range(count)) - present):
            missing = found[0].with_name(f"{name}-{lacking[0]:05d}-of-{count:05d}.parquet")
            raise UserError(f"{len(lacking)} of {count} tables are missing, the first: {missing}; fetch them all")
    return found


def _no_split(root: Path, split: str) -> str:
    tables = sorted({shard["split"] for file in root.rglob("*.parquet") if (shard := _SHARD.fullmatch(file.name))})
    cure = "train with --vqav2-split val2014, or give the official folder of visualqa.org/download.html"
    there = ", ".join(tables) or "no tables"
    return f"{root} has no split {split}: lmms-lab's VQAv2 comes without train2014, and here are {there}; {cure}"


def _rows(file: Path, columns: Sequence[str] | None, leave_out: Iterable[str] = ()) -> Iterator[Record]:
    """A table's rows as Python objects, one row group after the other."""
    import pyarrow
    import pyarrow.parquet

    try:
        check_regular(file)
        table = pyarrow.parquet.ParquetFile(file, memory_map=True)
        names = [name for name in table.schema_arrow.names if name not in leave_out]
        if columns and (lacking := set(columns) - set(names)):
            raise UserError(f"{file} has no column {sorted(lacking)[0]!r}, only {', '.join(names)}")
        for number in range(table.num_row_groups):
            yield from table.read_row_group(number, columns=list(columns or names)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{file} cannot be read as parquet ({reason}): fetch it again") from None


def _cell(record: Record, name: str, file: Path, row: int) -> Any:
    if record.get(name) is None:
        raise UserError(f"{file}, row {row}: the column {name!r} is missing or empty")
    return record[name]


def _listed(value: Any, where: str) -> list[str]:
    """["1", "2"], or that list written as text, by JSON or by Python."""
    if not isinstance(value, str):
        return list(value or ())
    if not value.strip():
        return []
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = None
    if not isinstance(found, list):
        raise UserError(f"{where}: {value[:40]!r} is no list of question ids")
    return [str(key) for key in found]


def _coco_name(source: Any) -> str:
    """COCO_val2014_000000000042 -> COCO_val2014_000000000042.jpg"""
    return str(source) if Path(str(source)).suffix else f"{source}.jpg"
