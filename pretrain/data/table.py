"""Image-caption pairs in the rows of a table: which columns hold them, and how one row is read.

An image is encoded bytes, datasets' Image (a struct of bytes and path), or the path of a file. A caption is a string, a
list of them (one is drawn), or a field of a struct or of JSON. Rows are read as raw Arrow values: an invalid caption or
image costs its own row, not the whole column.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.captions import (
    CAPTION_BYTES,
    BadSample,
    Caption,
    CaptionPlace,
    field_names,
    from_json,
    from_value,
    parse_place,
)  # fmt: skip
from pretrain.data.pairs import Captions, fingerprint_rows
from pretrain.data.table_images import BASE64, MISSING, OUTSIDE, URL, image_content, named_image, short_path
from vlm.errors import UserError

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
PATH_COLUMNS = (
    "img", "image_path", "filepath", "file_path", "file_name", "filename", "image_file", "img_path", "path", "images"
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "txt", "captions", "texts", "title", "sentences", "alt_text", "description")
FIRST_ROWS = 16  # of which one image file at least must be there


class TableCaptions(Captions):
    """Image-caption pairs in the rows of a `datasets.Dataset`, by number; `counts` as for one shard."""

    def __init__(
        self,
        data: Any,
        name: str,
        image_column: str | None,
        caption_column: str | None,
        files: Sequence[Path],
        rows: Sequence[int] = (),
        roots: Sequence[Path] = (),
        told: Sequence[str] = (),
    ):
        """files: those that hold the rows, and how many `rows` each holds, if they are known.

        roots: folders in which images named by a path may lie, beside each file's own.
        told: notices of how the files were read.
        """
        self.name, self.files, self.roots, self.told = name, files, roots, told
        usual = IMAGE_COLUMNS + PATH_COLUMNS
        self.image_column = choose_column(data.column_names, image_column, usual, "image", name)
        self.place = _caption_place(data.column_names, caption_column, name)
        self.caption_column = self.place.name
        self._ends = np.cumsum(rows if len(rows) == len(files) else [])
        schema = data.data.schema
        self._check_types(schema)
        self.data = data.with_format("arrow").select_columns([*dict.fromkeys([self.image_column, self.caption_column])])
        self.counts = np.array([len(data)], np.int64)
        self._check_first_rows()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' names below their common folder and sizes, the columns, and a few rows' content."""
        root = os.path.commonpath([path.parent for path in self.files]) if self.files else ""
        files = [(os.path.relpath(path, root), path.stat().st_size) for path in self.files]
        digest = hashlib.sha256(json.dumps([len(self), self.image_column, self.caption_column, files]).encode())
        for number in fingerprint_rows(len(self)):
            try:
                image, caption = self.read(number)
            except (OSError, BadSample):  # training will list it as bad, if it is drawn
                image, caption = None, self._stored_caption(number)
            for part in (image, *(caption if isinstance(caption, list) else [caption])):
                digest.update(hashlib.sha256(part or b"").digest())
        return digest.hexdigest()

    def read(self, number: int) -> tuple[bytes | None, Caption]:
        row = self.data[number]
        image = image_content(row[self.image_column][0])
        if isinstance(image, str):
            image = self._image_file(number, image)
        return image, self._caption(row[self.caption_column][0])

    def caption(self, number: int) -> Caption:
        return self._caption(self.data[number][self.caption_column][0])

    def identify(self, number: int) -> tuple[str, int]:
        return self.name, number

    def key(self, number: int) -> str | None:
        """The path of the image if there is one, else the file and its row."""
        image = image_content(self.data[number][self.image_column][0])
        return short_path(image) if isinstance(image, str) else self.where(number)

    def notices(self) -> Iterator[str]:
        return iter(self.told)

    def where(self, number: int) -> str:
        """The file and its row, as far as they are known."""
        file, row = self._file_row(number)
        return f"row {row} of {file or self.name}"

    def _file_row(self, number: int) -> tuple[Path | None, int]:
        if not len(self._ends):
            return (self.files[0] if len(self.files) == 1 else None), number
        file = int(np.searchsorted(self._ends, number, side="right"))
        return self.files[file], number - (int(self._ends[file - 1]) if file else 0)

    def _caption(self, value: Any) -> Caption:
        if not value.is_valid:
            return None
        field = self.place.field
        if _is_plain(value.type):
            # The buffer and not as_py(), which would raise at the first byte that is not UTF-8.
            content = value.as_buffer().to_pybytes()
            return from_json(content, field) if field else content[:CAPTION_BYTES]
        try:
            return from_value(value.as_py(), field)
        except UnicodeDecodeError:
            raise BadSample("caption is not UTF-8") from None

    def _stored_caption(self, number: int) -> Caption:
        try:
            return self.caption(number)
        except BadSample:
            return None

    def _folders(self, number: int) -> list[Path]:
        """The folders in which images may lie: the table's own, what --data named, --image-root."""
        file, _ = self._file_row(number)
        folders = [file.parent.absolute()] if file else []
        return [*dict.fromkeys([*folders, *(root.absolute() for root in self.roots)])]

    def _image_file(self, number: int, path: str) -> bytes:
        """The file at a path. Raises: BadSample or OSError, as `named_image`."""
        folders, (file, _) = self._folders(number), self._file_row(number)
        return named_image(path, folders, file.parent.absolute().parent if file else None)

    def _check_types(self, schema: Any) -> None:
        import pyarrow.types as types

        check_image_type(schema, self.image_column, self.name)
        texts = caption = schema.field(self.caption_column).type
        while types.is_list(texts) or types.is_large_list(texts):
            texts = texts.value_type
        nested = types.is_struct(texts)
        if self.place.field and (nested or _is_plain(texts)):
            return
        if nested or not _is_plain(texts):
            given = f"column {self.caption_column!r} of {self.name} holds {caption}, not strings"
            field = f", or a field of it as --caption-column {self.caption_column}:FIELD" if nested else ""
            columns = f"its columns are {', '.join(schema.names)}"
            raise UserError(f"{given}; {columns}: name another with --caption-column{field}")

    def _check_first_rows(self) -> None:
        """Raise `UserError` if the first rows' images are all missing files or URLs, or no caption is in its field."""
        problems: list[tuple[int, str]] = []
        for number in range(min(FIRST_ROWS, len(self))):
            image = image_content(self.data[number][self.image_column][0])
            try:
                if isinstance(image, str):
                    self._image_file(number, image)
                self.caption(number)
                return
            except OSError:
                return
            except BadSample as error:
                problems.append((number, str(error)))
        if not problems:
            return
        number, problem = problems[0]
        image = image_content(self.data[number][self.image_column][0])
        given = short_path(image) if isinstance(image, str) else None
        where = f"{self.where(number)}, column {self.image_column!r}: {given!r}"
        if problem == BASE64:
            cure = "decode the column to bytes first, or write the images to files"
            raise UserError(f"{where} begins as base64 of an image, not as a path: {cure}")
        if problem == URL:
            raise UserError(f"{where} is a URL, no image: fetch the images with img2dataset first")
        if problem == OUTSIDE:
            cure = "copy the images there, or name the folder that they may lie in with --image-root"
            raise UserError(f"{where} lies outside of {', '.join(map(str, self._folders(number)))}: {cure}")
        if problem == MISSING:
            folders = ", ".join(map(str, self._folders(number))) or "the folders that may be read"
            cure = "put the images there, or write their whole paths, or name their folder with --image-root"
            raise UserError(f"{where} is in none of {folders} (nor those of the next rows): {cure}")
        raw = self.data[number][self.caption_column][0].as_py()
        names = field_names(_parsed(raw) if isinstance(raw, str) else raw)
        found = f"its text fields are {', '.join(names[:12])}" if names else "it has no text fields"
        raise UserError(
            f"{self.where(number)}, column {self.caption_column!r}: {problem}; {found}: "
            f"name one as --caption-column {self.caption_column}:FIELD"
        )


def choose_column(columns: Sequence[str], wanted: str | None, usual: Sequence[str], kind: str, name: str) -> str:
    """The column `wanted`, or the first of the `usual` ones, in any case. Raises: UserError if `name` has none."""
    if not len(columns):
        raise UserError(f"{name} has no columns: no data set is there")
    lower = {column.lower(): column for column in reversed(columns)}
    for column in (wanted,) if wanted else usual:
        if column in columns:
            return column
        if not wanted and column in lower:
            return lower[column]
    missing = f"no column {wanted!r}" if wanted else f"none of the usual {kind} columns ({', '.join(usual)})"
    remedy = f"name one with --{kind}-column"
    if "url" in lower and kind == "image":
        remedy += ", or fetch the images of the column url with img2dataset first"
    raise UserError(f"{name} has {missing}; its columns are {', '.join(columns)}: {remedy}")


def _is_plain(kind: Any) -> bool:
    """Whether a column of this Arrow type holds bytes or strings."""
    import pyarrow.types as types

    tests = (types.is_binary, types.is_large_binary, types.is_string, types.is_large_string, types.is_null)
    return any(test(kind) for test in tests)


def check_image_type(schema: Any, column: str, name: str) -> None:
    """Raise `UserError` if a column of an Arrow schema cannot hold what `image_content` reads."""
    import pyarrow.types as types

    kind = schema.field(column).type
    datasets_image = types.is_struct(kind) and max(kind.get_field_index(part) for part in ("bytes", "path")) >= 0
    if not datasets_image and not _is_plain(kind):
        given = f"column {column!r} of {name} holds {kind}, not images (bytes, paths, or datasets' Image)"
        raise UserError(f"{given}; its columns are {', '.join(schema.names)}: name one with --image-column")


def _caption_place(columns: Sequence[str], wanted: str | None, name: str) -> CaptionPlace:
    """The column of the captions, and the field in it if `wanted` is COLUMN:FIELD."""
    if wanted and wanted not in columns and ":" in wanted:
        place = parse_place(wanted)
        return CaptionPlace(choose_column(columns, place.name, (), "caption", name), place.field)
    return CaptionPlace(choose_column(columns, wanted, CAPTION_COLUMNS, "caption", name))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
