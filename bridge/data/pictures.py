"""One image of a data set, wherever it lies: a file, or a cell of a parquet table.

A `Picture` says where an image is and holds none of its bytes: hashable, comparable, cheap to copy and to send to
another process. A `Path` is an image file. A `TableImage` is one row of a parquet file, as the hub stores images. Both
have a `name`, which predictions and details print.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from vlm.errors import UserError, one_line
from vlm.reading import LARGEST_IMAGE, check_regular, inside, read_regular

KEPT_BYTES = 256_000_000  # of row groups that were read last: neighbours in a table are asked for together


@dataclass(frozen=True, slots=True, order=True)
class TableImage:
    """The image in row `row` of a parquet file: bytes, or a hub image {bytes, path}. item: its index, if the column
    holds a list of images in each row. Pictures of one table sort in the order in which they lie there.
    """

    file: Path
    row: int
    name: str  # as the data set calls the image
    column: str = "image"
    item: int | None = None

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}" + (f", image {self.item}" if self.item is not None else "")


Picture = Path | TableImage


def open_picture(picture: Picture, fit: int | None = None) -> Image.Image:
    """Decode a picture to an upright RGB image by the rules of `vlm.images`.

    fit: the short side that it will be resized to; a much larger JPEG is not decoded whole.
    Raises: UserError if it is missing or unreadable, ImageError if it is not a usable image.
    """
    from vlm.images import ImageError, decode  # torch: questions are read and judged without it

    try:
        return decode(picture_bytes(picture), fit=fit)
    except ImageError as error:
        raise error.of(picture) from None


def picture_bytes(picture: Picture) -> bytes:
    """The encoded image: JPEG, PNG or what it is. Raises: UserError if it is missing."""
    if isinstance(picture, TableImage):
        return _table_bytes(picture)
    try:
        return read_regular(picture, LARGEST_IMAGE)
    except OSError as error:
        raise UserError(f"cannot read the image {picture}: {error.strerror}") from None


def picture_size(picture: Picture) -> int | None:
    """Bytes of an image file: enough to notice, without reading it, that it is another one now.

    None in a table, which would have to be read, and if there is no file.
    """
    try:
        return picture.stat().st_size if isinstance(picture, Path) else None
    except OSError:
        return None


def picture_digest(picture: Picture) -> str:
    """By what a cache knows a picture again, wherever it lies: a hash of its bytes. Raises: UserError."""
    return hashlib.blake2b(picture_bytes(picture), digest_size=16).hexdigest()


def reading_order(picture: Picture) -> tuple:
    """Sorts pictures so that a table is read from front to back, each row group once; files keep no order of theirs."""
    return () if isinstance(picture, Path) else (str(picture.file), picture.row, picture.item or 0)


def _table_bytes(picture: TableImage) -> bytes:
    cell = _TABLES.cell(picture.file, picture.column, picture.row)
    if picture.item is not None:
        cell = cell[picture.item] if cell is not None and picture.item < len(cell) else None
    if isinstance(cell, dict):
        if cell.get("bytes") is not None:
            return cell["bytes"]
        if cell.get("path"):  # an image beside the table, as `datasets` writes it without embedding
            beside = picture.file.parent / cell["path"]
            if not isinstance(cell["path"], str) or not inside(beside, [picture.file.parent]):
                raise UserError(f"cannot read the image {picture}: {beside} lies outside of the data set's folder")
            return picture_bytes(beside)
        cell = None
    if not isinstance(cell, bytes):
        raise UserError(f"cannot read the image {picture}: the column {picture.column!r} holds none there")
    return cell


class _Tables:
    """Open parquet files, and one column of the row groups that were read last; safe among threads."""

    def __init__(self, kept_bytes: int):
        self._kept_bytes, self._lock = kept_bytes, Lock()
        self._files: dict[Path, tuple[Any, list[int]]] = {}  # an open file, and the first row of each row group
        self._groups: OrderedDict[tuple[Path, str, int], Any] = OrderedDict()  # pyarrow.ChunkedArray, oldest first

    def cell(self, file: Path, column: str, row: int) -> Any:
        """The value of one cell, as Python has it."""
        import pyarrow

        with self._lock:
            try:
                values, index = self._group(file, column, row)
            except (pyarrow.ArrowException, OSError, KeyError) as error:
                raise UserError(f"cannot read the image {file}, row {row}: {one_line(error, 200)}") from None
        return values[index].as_py()

    def _group(self, file: Path, column: str, row: int) -> tuple[Any, int]:
        from bisect import bisect_right

        import pyarrow.parquet

        if file not in self._files:
            check_regular(file)
            opened = pyarrow.parquet.ParquetFile(file, memory_map=True)
            starts = [0]
            for number in range(opened.num_row_groups):
                starts.append(starts[-1] + opened.metadata.row_group(number).num_rows)
            self._files[file] = opened, starts
        opened, starts = self._files[file]
        group = bisect_right(starts, row) - 1
        key = (file, column, group)
        if key not in self._groups:
            self._groups[key] = opened.read_row_group(group, columns=[column]).column(column)
            while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > self._kept_bytes:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key], row - starts[group]


_TABLES = _Tables(KEPT_BYTES)
