"""Image-caption pairs in parquet and Arrow files and in Hugging Face data sets, through `datasets`.

`datasets` maps Arrow files into memory, so any row is one look-up away. Parquet is written once to its cache as Arrow.
Rows are read as raw Arrow values: an invalid caption or image costs its own row, not the whole column.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.pairs import CAPTION_BYTES, Captions
from vlm.errors import UserError

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
CAPTION_COLUMNS = ("caption", "text", "txt")
FINGERPRINT_ROWS = 16  # whose content is in the fingerprint, beside the first and the last


class TableCaptions(Captions):
    """Image-caption pairs in the rows of a `datasets.Dataset`, by number; `counts` as for one shard.

    `files`: those that hold the rows, if they are known.
    """

    def __init__(
        self, data: Any, name: str, image_column: str | None, caption_column: str | None, files: Sequence[Path]
    ):
        self.name, self.files = name, files
        self.image_column = choose_column(data.column_names, image_column, IMAGE_COLUMNS, "image", name)
        self.caption_column = choose_column(data.column_names, caption_column, CAPTION_COLUMNS, "caption", name)
        self._check_types(data.data.schema)
        self.data = data.with_format("arrow").select_columns([self.image_column, self.caption_column])
        self.counts = np.array([len(data)], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' names below their common folder and sizes, the columns, and a few rows' content."""
        root = os.path.commonpath([path.parent for path in self.files]) if self.files else ""
        files = [(os.path.relpath(path, root), path.stat().st_size) for path in self.files]
        digest = hashlib.sha256(json.dumps([len(self), self.image_column, self.caption_column, files]).encode())
        for number in _fingerprint_rows(len(self)):
            try:
                parts = self.read(number)
            except OSError:  # an image in a file of its own; training will list it as bad, if it is drawn
                parts = None, self.caption(number)
            for part in parts:
                digest.update(hashlib.sha256(part or b"").digest())
        return digest.hexdigest()

    def read(self, number: int) -> tuple[bytes | None, bytes | None]:
        row = self.data[number]
        return image_bytes(row[self.image_column][0]), _caption_bytes(row[self.caption_column][0])

    def caption(self, number: int) -> bytes | None:
        return _caption_bytes(self.data[number][self.caption_column][0])

    def identify(self, number: int) -> tuple[str, int]:
        return self.name, number

    def _check_types(self, schema: Any) -> None:
        import pyarrow.types as types

        image, caption = schema.field(self.image_column).type, schema.field(self.caption_column).type
        datasets_image = types.is_struct(image) and image.get_field_index("bytes") >= 0
        if not datasets_image and not (types.is_binary(image) or types.is_large_binary(image)):
            given = f"column {self.image_column!r} of {self.name} holds {image}, not encoded images"
            columns = f"its columns are {', '.join(schema.names)}: name one with --image-column"
            raise UserError(f"{given} (bytes, or datasets' Image); {columns}")
        readable = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
        if not any(test(caption) for test in readable):
            given = f"column {self.caption_column!r} of {self.name} holds {caption}, not strings"
            raise UserError(f"{given}: name another with --caption-column")


def open_files(paths: Sequence[Path], image_column: str | None, caption_column: str | None) -> TableCaptions:
    """Rows of .parquet files, or of .arrow files, in the order given."""
    import datasets

    name = paths[0].parent.name if len(paths) > 1 else paths[0].name
    if paths[0].suffix == ".arrow":
        parts = [_loaded(str(path), lambda path=path: datasets.Dataset.from_file(str(path))) for path in paths]
        data = _loaded(name, lambda: datasets.concatenate_datasets(parts))
    else:
        files = [str(path) for path in paths]
        data = _loaded(name, lambda: datasets.load_dataset("parquet", data_files=files, split="train"))
    return TableCaptions(data, name, image_column, caption_column, paths)


def open_by_name(source: str, image_column: str | None, caption_column: str | None) -> TableCaptions:
    """What `datasets` opens as a whole: a folder by `save_to_disk`, one in the hub's layout, or an id like org/name.

    Of several splits `train` is taken.
    """
    path, files = Path(source), []
    if is_saved(path):
        data = load_saved(path)
        if isinstance(data, dict):
            if "train" not in data:
                raise UserError(f"{path} has the splits {', '.join(data)}, not train: give the folder of one of them")
            data = data["train"]
        files = [Path(file["filename"]) for file in data.cache_files]
    elif path.is_dir() and not any(path.rglob("*.*")):
        raise UserError(f"{source} holds no .tar, .parquet or .arrow file: give the folder with the shards")
    else:
        data = load_named(source, "train", "a folder or glob of .tar, .parquet or .arrow files, or a hub id")
        if path.is_dir():
            files = sorted(path.rglob("*.parquet"))
    return TableCaptions(data, path.name, image_column, caption_column, files)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()


def load_saved(folder: Path) -> Any:
    """What `save_to_disk` wrote: a `datasets.Dataset`, or a dict of them by split."""
    import datasets

    return _loaded(str(folder), lambda: datasets.load_from_disk(str(folder)))


def load_named(source: str, split: str | None, needed: str) -> Any:
    """What `load_dataset` understands: the `datasets.Dataset` of a split, or a dict of all by split.

    needed: what may be given, for the error. Raises: UserError if the source is not there or cannot be read.
    """
    import datasets

    is_folder = Path(source).is_dir()
    if not is_folder and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise UserError(f"{source} does not exist: give {needed}")
    name = source if is_folder else f"{source}, which is no path here,"
    return _loaded(name, lambda: datasets.load_dataset(source, split=split))


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    """What `load()` gives; the libraries' many errors become one line about `name`."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        return load()
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"cannot read {name} as a data set: {' '.join(str(cause).split())[:300]}") from error


def _fingerprint_rows(rows: int) -> list[int]:
    """First, last, and what a generator keyed by their number draws: the same rows on every machine."""
    if not rows:
        return []
    drawn = np.random.default_rng(rows).integers(rows, size=FINGERPRINT_ROWS)
    return sorted({0, rows - 1, *drawn.tolist()})


def choose_column(columns: Sequence[str], wanted: str | None, usual: Sequence[str], kind: str, name: str) -> str:
    """The column `wanted`, or the first of the `usual` ones that the data set `name` has."""
    if not len(columns):
        raise UserError(f"{name} has no columns: no data set is there")
    for column in (wanted,) if wanted else usual:
        if column in columns:
            return column
    missing = f"no column {wanted!r}" if wanted else f"none of the usual {kind} columns ({', '.join(usual)})"
    raise UserError(f"{name} has {missing}; its columns are {', '.join(columns)}: name one with --{kind}-column")


def image_bytes(value: Any) -> bytes | None:
    """The image file in an Arrow scalar: a struct of bytes and path, as datasets' Image, or plain binary."""
    import pyarrow as pa

    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        content = value["bytes"]
        if content.is_valid:
            return content.as_buffer().to_pybytes()
        path = value["path"].as_py() if "path" in value else None
        return Path(path).read_bytes() if path else None
    return value.as_buffer().to_pybytes()


def _caption_bytes(value: Any) -> bytes | None:
    # The buffer and not as_py(), which would raise at the first byte that is not UTF-8.
    return value.as_buffer().to_pybytes()[:CAPTION_BYTES] if value.is_valid else None
