"""Tables whose columns stand between commas, tabs or semicolons: .csv and .tsv files as `datasets.Dataset`.

Captions hold commas and quotes that nobody has quoted. A parser then shifts, cuts or joins rows without a word, so a
further column takes what stands behind the header's last one, and whole rows inside of a value are looked for.
"""

import csv
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.data.data_files import exactly
from vlm.errors import UserError

FURTHER = "further fields of the row"  # the column behind the header's last


class Header(NamedTuple):
    """What the first line says; `quoted`: whether it does so between quotes."""

    columns: list[str]
    separator: str
    quoted: bool


def open_delimited(path: Path) -> tuple[Any, list[str]]:
    """The rows of a file, all of them strings, and the notices of how it was read.

    1  no text behind the last column, no row inside a value         the rows
       else with tabs and no quotes in the header, if each line is a row whatever its quotes are:
    2  all quotes are proper: several lines, or joined rows?         refused: nobody can tell
    3  a quote opens that is not closed properly                     the rows, read without quoting; a notice
       else:
    4  a row has too many fields, or a quote not closed properly     refused, with its line
    5  the parser gave up, or there are texts behind the last        refused
    6  the rows inside of values are texts, properly quoted          the rows

    Raises: UserError if a row has more fields than the header, or a quote opens that is not closed properly.
    """
    import pandas as pd
    from datasets.exceptions import DatasetsError

    header, refused = _header(path), None
    data: Any = None
    try:
        data = _read(path, header, csv.QUOTE_MINIMAL)
        if not _has_further(data) and not _has_rows_inside(data, header):  # 1
            return data.remove_columns(FURTHER), []
    except (DatasetsError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        refused = error
    fault = _fault(path, header)
    if header.separator == "\t" and not header.quoted and (fault or data) and _is_plain(path, header):
        if not fault:  # 2: every line is a row, and so is what its quotes join
            cure = "quote the names in its first line too if its texts are quoted, else leave such quotes out"
            raise UserError(f'{path} has texts of several lines, or rows that a single " joins, as it seems: {cure}')
        # 3: of lines with as many fields as the header has, only a quote can be at fault
        notice = f'{path} is read without quoting: in it a " begins a text and does not end it'
        return _read(path, header, csv.QUOTE_NONE).remove_columns(FURTHER), [notice]
    if fault:  # 4
        raise UserError(f"{path}, {fault}")
    if refused:  # 5
        raise refused
    if _has_further(data):  # 5
        raise UserError(f"{path} has rows of more than {_named(header)}: {_cure(header)}")
    return data.remove_columns(FURTHER), []  # 6


def _header(path: Path) -> Header:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline()
    separator = "\t" if path.suffix.lower() == ".tsv" or "\t" in line else ","  # open_clip's .csv has tabs
    if "," not in line and separator == "," and ";" in line:  # as spreadsheets write it where 1/2 is 0,5
        separator = ";"
    columns = next(csv.reader([line], delimiter=separator), [])
    columns = [name or f"Unnamed: {number}" for number, name in enumerate(columns)]  # pandas writes its index so
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} names a column twice in its first line: {', '.join(columns)}")
    return Header(columns, separator, '"' in line)


def _read(path: Path, header: Header, quoting: int) -> Any:
    """The rows as a `datasets.Dataset`, with the column `FURTHER`."""
    import datasets
    import pandas as pd

    # As text, whatever it looks like: the captions "12", "None" and "NA" are captions.
    names = [*header.columns, FURTHER]
    features = datasets.Features({column: datasets.Value("string") for column in names})
    options: dict[str, Any] = {"column_names": names, "header": None, "skiprows": 1, "index_col": False}
    options |= {
        "keep_default_na": False,
        "sep": header.separator,
        "quoting": quoting,
        "features": features,
        "encoding": "utf-8-sig",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of fields behind the further one
        return datasets.load_dataset("csv", data_files=exactly([path]), split="train", **options)


def _has_further(data: Any) -> bool:
    """Whether a row has a text behind the header's last column; an empty one is a separator at the row's end."""
    import pyarrow.compute

    pc: Any = pyarrow.compute
    return bool(pc.any(pc.greater(pc.binary_length(data.data.column(FURTHER)), 0)).as_py())


def _has_rows_inside(data: Any, header: Header) -> bool:
    """Whether a value holds a line break and the separator, as of a quote that took in the next row."""
    import pyarrow.compute

    pc: Any = pyarrow.compute
    for name in header.columns:
        column = data.data.column(name)
        broken = pc.or_(pc.match_substring(column, "\n"), pc.match_substring(column, "\r"))
        if pc.any(pc.and_(broken, pc.match_substring(column, header.separator))).as_py():
            return True
    return False


def _is_plain(path: Path, header: Header) -> bool:
    """Whether every line is a row of as many fields as the header, whatever its quotes are."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return all(line.count(header.separator) == len(header.columns) - 1 for line in file if line.strip("\n"))


def _fault(path: Path, header: Header) -> str | None:
    """The first row with too many fields, or of several lines and not quoted properly: where, and what to do."""
    for line, fields, lines in _rows(path, header.separator):
        if any(fields[len(header.columns) :]):
            return f"line {line}, has {len(fields)} fields, more than {_named(header)}: {_cure(header)}"
        if len(lines) > 1 and not _is_strict(lines, header.separator):
            return f'line {line}, has a " that opens and is not closed properly: {_cure(header)}'
    return None


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """The number of a row's first line, from 1 on, its fields, and its lines."""
    taken: list[str] = []
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file, _any_length():
        first, lines = 1, (taken.append(line) or line for line in file)
        for fields in csv.reader(lines, delimiter=separator):
            yield first, fields, taken
            first += len(taken)
            taken.clear()


def _is_strict(lines: list[str], separator: str) -> bool:
    try:
        next(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error:
        return False
    return True


@contextmanager
def _any_length() -> Iterator[None]:
    """Let `csv` read fields of any length; a quote that is not closed may take in the whole file."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _named(header: Header) -> str:
    return f"the {len(header.columns)} of the first line ({', '.join(header.columns)[:200]})"


def _cure(header: Header) -> str:
    separator = {"\t": "a tab"}.get(header.separator, f"`{header.separator}`")
    return f'put texts that hold {separator} or " between double quotes, and write each " in them twice'
