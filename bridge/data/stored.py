"""A training set as columns on disk: parsed once, mapped into memory, shared by all processes of a machine.

GQA's training questions take 5.7 GB as the objects that JSON gives. Here only what training needs is kept: five Arrow
columns in ~/.cache/levlm/questions (`cache_folder`), named by path, size and time of the files that they come from. An
`Example` is made when it is asked for.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from bridge.data.example import Example
from bridge.data.image_folder import Images
from bridge.data.pictures import Picture
from vlm.errors import UserError, writing
from vlm.files import cache_folder

VERSION = 1  # of the columns: what another version wrote is not read
BATCH = 50_000  # rows that are turned into columns at once
RECORD = "position"  # the column of a question's record number in its source, which quarantine.jsonl calls "index"


class StoredRecord(NamedTuple):
    """A record as it was read. problem: why it cannot be trained on, or ""."""

    key: str
    image: str = ""
    question: str = ""
    answer: str = ""
    votes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Source:
    """What a stored set is made of. files: by which it is known again. name: what quarantine.jsonl calls it."""

    name: str
    files: Sequence[Path]
    rows: Callable[[], Iterable[StoredRecord]]
    images: Callable[[], Images]


class Stored(Sequence[Example]):
    """The questions of a `Source` that can be trained on; `bad` lists the others as quarantine.jsonl does."""

    def __init__(self, name: str, table: Any, pictures: Sequence[Picture], rows: np.ndarray, bad: list[dict]):
        """table: pyarrow.Table. pictures: of each image number. rows: int64[kept], rows of the table."""
        self.name, self._table, self.pictures, self._rows, self.bad = name, table, pictures, rows, bad
        self._columns = [table.column(name) for name in ("key", "image", "question", "answer", "votes")]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = int(self._rows[index])
        key, image, question, answer, votes = (column[row].as_py() for column in self._columns)
        return Example(key, self.pictures[image], question, answer, tuple(votes))

    @property
    def text_bytes(self) -> np.ndarray:
        """int64[questions]: UTF-8 bytes of question and answer."""
        import pyarrow.compute

        sizes = [
            pyarrow.compute.call_function("binary_length", [self._table.column(name)]).to_numpy()
            for name in ("question", "answer")
        ]
        return (sizes[0].astype(np.int64) + sizes[1])[self._rows]

    @property
    def image_numbers(self) -> np.ndarray:
        """int32[questions]: equal for questions about the same image."""
        return self._table.column("image").to_numpy()[self._rows]

    def used_pictures(self) -> list[Picture]:
        """Each picture that a question asks about."""
        return [self.pictures[number] for number in np.unique(self.image_numbers).tolist()]

    def digest(self, votes: bool) -> str:
        """Of everything that is trained on, wherever the files lie."""
        columns = (self._table.column(name) for name in ("key", "question", "answer", *(["votes"] if votes else [])))
        digest = hashlib.sha256(json.dumps([picture.name for picture in self.pictures]).encode())
        digest.update(self._rows.tobytes() + self._table.column("image").to_numpy().tobytes())
        for column in columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    digest.update(memoryview(buffer) if buffer is not None else b"-")
        return digest.hexdigest()

    def without(self, records: set[int]) -> "Stored":
        """Leave out the questions of these record numbers."""
        if not records:
            return self
        numbers = self._table.column(RECORD).to_numpy()[self._rows]
        kept = self._rows[~np.isin(numbers, np.fromiter(records, np.int64, len(records)))]
        return Stored(self.name, self._table, self.pictures, kept, self.bad)

    def record_numbers(self, indices: Iterable[int]) -> list[int]:
        """Which records of their source, counted from 0, questions are."""
        column = self._table.column(RECORD)
        return [column[int(self._rows[index])].as_py() for index in indices]


def stored(source: Source) -> Stored:
    """Open a set, parsing it first if no process has done so; each missing image's questions are in `bad`.

    Raises: UserError if a file cannot be read, the cache cannot be written, or the source holds no question.
    """
    import pyarrow

    file = _cached(source)
    with pyarrow.memory_map(str(file)) as mapped:
        table = pyarrow.ipc.open_file(mapped).read_all()
    known = json.loads(table.schema.metadata[b"levlm"])
    bad: list[dict] = [{"shard": source.name, **record} for record in known["bad"]]
    if not len(table) and not bad:
        raise UserError(f"{source.name} holds no question about an image")
    images = source.images()
    pictures = [images.find(name) for name in known["images"]]
    missing = np.array([isinstance(picture, Path) and picture in images.missing for picture in pictures], bool)
    numbers = table.column("image").to_numpy()
    lost = np.flatnonzero(missing[numbers]) if len(numbers) else np.zeros(0, np.int64)
    for row in lost.tolist():
        record = {"index": table.column(RECORD)[row].as_py(), "key": table.column("key")[row].as_py()}
        picture = str(pictures[numbers[row]])
        bad.append({"shard": source.name, **record, "reason": "missing image", "image": picture})
    rows = np.setdiff1d(np.arange(len(table)), lost)
    return Stored(source.name, table, pictures, rows, bad)


def _cached(source: Source) -> Path:
    """The file of columns; one process writes it while the others wait."""
    states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in source.files]
    digest = hashlib.sha256(json.dumps([VERSION, source.name, states]).encode()).hexdigest()[:16]
    folder = cache_folder("questions")
    file = folder / f"{digest}.arrow"
    if file.exists():
        return file
    with writing(folder, "set LEVLM_CACHE to a folder with room"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{digest}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
                try:
                    _write(source.rows(), partial)
                    os.replace(partial, file)
                finally:
                    partial.unlink(missing_ok=True)
    return file


def _write(rows: Iterable[StoredRecord], path: Path) -> None:
    """Write the good rows as columns; the image names and the bad rows go into the schema's metadata."""
    import pyarrow

    types = {RECORD: pyarrow.int64(), "key": pyarrow.string(), "image": pyarrow.int32()}
    types |= {"question": pyarrow.string(), "answer": pyarrow.string(), "votes": pyarrow.list_(pyarrow.string())}
    images: dict[str, int] = {}
    seen: set[str] = set()
    bad: list[dict] = []
    batches, waiting = [], []
    for number, row in enumerate(rows):
        problem = row.problem or _problem(row) or ("question id occurs twice" if row.key in seen else "")
        seen.add(row.key)
        if problem:
            bad.append({"index": number, "key": row.key, "reason": problem})
            continue
        image = images.setdefault(row.image, len(images))
        waiting.append((number, row.key, image, row.question, row.answer, list(row.votes)))
        if len(waiting) == BATCH:
            batches.append(_columns(waiting, types))
            waiting = []
    batches.append(_columns(waiting, types))
    known = json.dumps({"images": list(images), "bad": bad})
    table = pyarrow.Table.from_batches(batches).combine_chunks().replace_schema_metadata({"levlm": known})
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _columns(rows: list[tuple], types: dict[str, Any]) -> Any:
    import pyarrow

    arrays = [pyarrow.array([row[number] for row in rows], kind) for number, kind in enumerate(types.values())]
    return pyarrow.RecordBatch.from_arrays(arrays, list(types))


def _problem(row: StoredRecord) -> str:
    """Why no model could learn from the texts of a row, or ""."""
    if not row.question.strip():
        return "empty question"
    if not row.answer.strip():
        return "empty answer"
    try:
        "".join((row.key, row.image, row.question, row.answer, *row.votes)).encode()
    except UnicodeEncodeError:  # JSON can spell half of a character, which no tokenizer takes
        return "not valid Unicode text"
    return ""
