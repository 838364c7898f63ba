"""Files of conversations -> records, one after the other: JSON, JSON lines, and parquet as the hub stores it."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bridge.data.pictures import TableImage
from vlm.errors import UserError, one_line
from vlm.files import read_records
from vlm.hub import check_repository, is_hub_id, snapshot
from vlm.reading import check_regular
from vlm.walking import walk

KINDS = (".parquet", ".jsonl", ".json")
ROWS = 1024  # of a row group that are in memory as Python objects at once
IMAGE_COLUMNS = ("images", "image")


def conversation_files(source: str) -> list[Path]:
    """The files that `--conversations` names: a file, a folder (looked through), a glob, or a data set of the hub.

    A data set may have a configuration behind its id, `HuggingFaceM4/the_cauldron/ai2d`. If some files of a folder or
    data set are called `train...`, they are taken alone: the others are for validation and test.
    Raises: UserError if there are none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(path / name for name in walk(path) if name.endswith(KINDS))
        found = [file for file in found if file.is_file()]
    elif glob.has_magic(source):
        found = [Path(file) for file in sorted(glob.glob(str(path), recursive=True)) if Path(file).suffix in KINDS]
    else:
        found = _hub_files(source)
    # A folder of parquet may have JSON files beside it that describe it.
    tables = [file for file in found if file.suffix == ".parquet"]
    training = [file for file in tables or found if file.name.startswith("train")]
    if not found:
        raise UserError(f"{source} has no .json, .jsonl or .parquet files: give a file, a folder, a glob or a hub id")
    taken = training or tables or found
    left = sorted(set(found) - set(taken))
    if left and os.environ.get("RANK", "0") == "0":  # once, however many processes train
        some = ", ".join(file.name for file in left[:5])
        print(f"{source}: {len(taken)} of {len(found)} files are taken; left out: {some}", file=sys.stderr)
    return taken


def check_conversations(source: str) -> None:
    """Raises: UserError if there is no such file, folder or data set of the hub, or no file of a glob; reads none."""
    if glob.has_magic(source):
        conversation_files(source)
    elif not Path(source).expanduser().exists():
        check_repository(_hub_place(source)[0], "dataset", "give the path of a file or folder")


def _hub_files(source: str) -> list[Path]:
    """Download the parquet files of a data set into the hub's cache, once."""
    repository, folder = _hub_place(source)
    pattern = f"{folder}/*.parquet" if folder else "*.parquet"
    root = snapshot(repository, [pattern], "dataset", "give the path of a file or folder")
    return sorted((root / folder).rglob("*.parquet"))


def _hub_place(source: str) -> tuple[str, str]:
    """OWNER/NAME and the folder in it of a data set's name. Raises: UserError if it is none."""
    parts = source.split("/")
    is_id = is_hub_id("/".join(parts[:2])) and len(parts) in (2, 3) and parts[-1] not in (".", "..", "")
    if not is_id or Path(source).suffix in KINDS:
        raise UserError(f"{source} does not exist: give a file, a folder, a glob or a hub id (OWNER/NAME)")
    return "/".join(parts[:2]), "/".join(parts[2:])


def records(file: Path) -> Iterator[tuple[Any, list[Any] | None]]:
    """The records of a file, each with its pictures.

    The pictures are None if the record names them itself, as LLaVA's do. Raises: UserError if the file is broken.
    """
    if file.suffix == ".parquet":
        yield from _table_records(file)
    else:
        for record in _json_records(file):
            yield record, None


def _json_records(file: Path) -> Iterator[Any]:
    """A list of objects, or an object a line; what is none among them is the caller's to refuse."""
    found = read_records(file)
    listed = found if isinstance(found, list) else [found]
    if listed and not any(isinstance(record, dict) for record in listed):
        raise UserError(f"{file} holds no conversations: needed is a JSON list of records, or a record a line")
    yield from listed


def _table_records(file: Path) -> Iterator[tuple[dict[str, Any], list[Any] | None]]:
    """The rows of a parquet file, row group by row group; of its images only how many there are is read."""
    import pyarrow
    import pyarrow.parquet

    try:
        check_regular(file)
        table = pyarrow.parquet.ParquetFile(file, memory_map=True)
        column = next((name for name in IMAGE_COLUMNS if name in table.schema_arrow.names), None)
        leaves = [table.schema.column(index).path for index in range(len(table.schema))]
        texts = [name for name in ("id", "texts", "conversations", "messages") if name in table.schema_arrow.names]
        if not set(texts) - {"id"}:
            names = ", ".join(table.schema_arrow.names)
            raise UserError(f"{file} holds no conversations: it needs a column texts or conversations, and has {names}")
        # The path of an image stands for it: its bytes are read when it is shown.
        shown = [leaf for leaf in leaves if leaf.split(".")[0] == column]
        shown = [leaf for leaf in shown if leaf.endswith(".path")] or shown
        row = 0
        for batch in table.iter_batches(ROWS, columns=[*texts, *shown]):
            for record in batch.to_pylist():
                pictures = None if column is None else _pictures(file, row, column, record.pop(column))
                yield record, pictures
                row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as parquet: {one_line(error, 200)}") from None


def _pictures(file: Path, row: int, column: str, cell: Any) -> list[Any]:
    """The pictures of one row: names of files as they are, others as places in the table."""
    if cell is None:
        return []
    if not isinstance(cell, list):
        return [cell if isinstance(cell, str) else TableImage(file, row, f"{file.stem}:{row}", column)]
    return [
        each if isinstance(each, str) else TableImage(file, row, f"{file.stem}:{row}:{item}", column, item)
        for item, each in enumerate(cell)
        if each is not None
    ]


def listed(value: Any) -> Sequence[Any]:
    """What a record's `image` or `images` holds, as a list: text-only records have "", null or nothing there."""
    return [each for each in (value if isinstance(value, list) else [value]) if each not in (None, "")]
