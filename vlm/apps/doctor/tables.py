"""Parquet and Arrow files: rows, columns, the first row, and whether images in them can be read."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vlm.apps.doctor.decoding import decoded_finding
from vlm.apps.doctor.findings import Finding, Findings

SHOWN = 60  # characters of a value


def table_findings(path: Path, files: Sequence[Path], tried: int) -> Findings:
    """Checks of the tables at `path`; `tried` images of the first are decoded."""
    rows = _rows(files[0])
    names = list(rows[0]) if rows else []
    count = f"{_count(files):,} rows" if files[0].suffix == ".parquet" else f"{len(files)} Arrow files"
    flag = "--conversations" if "texts" in names else "--data"
    text = f"{len(files)} tables, {count}, columns {', '.join(names)}: for {flag} {path}"
    yield Finding("OK" if rows else "FAIL", "kind", text if rows else f"{files[0]} has no rows: download it again")
    if not rows:
        return
    said = ", ".join(f"{name} {_brief(value)}" for name, value in rows[0].items())
    yield Finding("OK", "first sample", said)
    contents = list(islice(_images(rows), tried))
    if contents:
        yield decoded_finding(f"of {files[0].name}", contents)
    else:
        yield Finding("warn", "images", f"no column of {files[0].name} holds bytes of images: are they paths or URLs?")


def _count(files: Sequence[Path]) -> int:
    from pyarrow import parquet

    return sum(parquet.ParquetFile(file).metadata.num_rows for file in files)


def _rows(file: Path, most: int = 16) -> list[dict[str, Any]]:
    """The first rows of a table."""
    import pyarrow

    if file.suffix == ".parquet":
        from pyarrow import parquet

        batch = next(parquet.ParquetFile(file).iter_batches(batch_size=most), None)
        return [] if batch is None else batch.to_pylist()
    with pyarrow.memory_map(str(file)) as source:  # a data set of `datasets` is a stream, others are files
        try:
            batch = next(iter(pyarrow.ipc.open_stream(source)), None)
        except pyarrow.ArrowInvalid:
            batch = pyarrow.ipc.open_file(source).get_batch(0)
        return [] if batch is None else batch.slice(0, most).to_pylist()


def _images(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Bytes of images: a binary column, the hub's {bytes, path}, or lists of either."""
    for number, row in enumerate(rows):
        for name, value in row.items():
            for each in value if isinstance(value, list) else [value]:
                data = each.get("bytes") if isinstance(each, dict) else each
                if isinstance(data, bytes):
                    yield f"row {number}, {name}", data


def _brief(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        return f"({len(value):,} bytes)"
    text = str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
