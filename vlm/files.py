"""Files that appear whole or not at all, hashes of content, and JSON."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.errors import UserError, writing
from vlm.reading import read_regular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_JSON = 4 * 2**30  # bytes; the largest of GQA's files has 1.1 GB
_SPACE = re.compile(r"\s*")


def cache_folder(name: str) -> Path:
    """The folder of one kind of what is computed once: $LEVLM_CACHE/NAME, or NAME in ~/.cache/levlm, where ~/.cache
    stands for $XDG_CACHE_HOME.
    """
    home = os.environ.get("LEVLM_CACHE")
    return (Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "levlm") / name


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def encoded(text: str) -> bytes:
    """UTF-8. A byte of a file's name that is none, in Python a lone surrogate, is written out: \\udce9.

    In JSON that is an escape, by which the name is read back as it was.
    """
    return text.encode(errors="backslashreplace")


def refuse_output(flag: str, path: str | None, read: Iterable[str | Path]) -> None:
    """Raise a UserError if `path`, which `flag` names, is no name of a file, or one of the files that are read.

    To be called before a command's work: found out at the end, it costs the work.
    """
    if path is None:
        return
    if not path or Path(path).is_dir():
        raise UserError(f"{flag} {path or repr(path)}: give a file, such as {Path(path) / 'numbers.json'}")
    if Path(path).resolve() in [Path(name).resolve() for name in read]:
        raise UserError(f"{flag} {path} is a file that is read: give another name")


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write `content` beside `path`, flush it, then rename: a reader sees the old file or the new one.

    Raises: UserError if the disk refuses; the old file is untouched then.
    """
    path, data = Path(path), encoded(content) if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.tmp")
    with writing(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            sync(partial)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def write_figure(path: str | Path, figure: "Figure") -> None:
    """Write a picture of matplotlib's, in the format that the name of `path` ends in, as `write_file` does."""
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix.removeprefix("."))
    write_file(path, content.getvalue())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as `write_file` does."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def _reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn what reading a file of JSON raises into a `UserError`. kind: what the file should be."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of these also brackets 100,000 deep, and numbers of 5,000 digits
        raise UserError(f"{path} is not {kind} ({error}): fetch or write it again") from None


def _text(path: str | Path, kind: str) -> str:
    """The text of a JSON file in UTF-8, 16 or 32, with or without a byte order mark."""
    with _reading(path, kind):
        data = read_regular(path, LARGEST_JSON)
        return data.decode(json.detect_encoding(data))


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; `UserError` if it is missing or is not JSON."""
    text = _text(path, "valid JSON")
    with _reading(path, "valid JSON"):
        return json.loads(text)


def read_records(path: str | Path) -> Any:
    """Parse a file that others wrote as JSON or as JSON lines: its one value, or the list of its values.

    A byte order mark, blank lines and values that span lines do no harm.
    Raises: UserError if the file cannot be read, is empty, or breaks off, with the line.
    """
    text = _text(path, "valid JSON")
    decoder, values = json.JSONDecoder(), []
    start = _after_space(text, 0)
    while start < len(text):
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, start) + 1
            if not values:
                raise UserError(f"{path} is not valid JSON ({error}): fetch or write it again") from None
            raise UserError(f"{path}, line {line} is not JSON: the file was edited, cut off or damaged") from None
        values.append(value)
        start = _after_space(text, end)
    if not values:
        raise UserError(f"{path} is empty: fetch or write it again")
    return values[0] if len(values) == 1 else values


def names_in_object(path: str | Path) -> list[str]:
    """The names of the JSON object that is the whole of a file, each as often as it is there."""
    pairs = json.loads(_text(path, "valid JSON"), object_pairs_hook=list)
    return [name for name, _ in pairs]


def _after_space(text: str, start: int) -> int:
    """Where the first character at or behind `start` stands that is no white space."""
    found = _SPACE.match(text, start)
    return found.end() if found else start


def append_jsonl(path: str | Path, record: dict) -> None:
    """Append one object as one line; the line is on its way to the disk when this returns."""
    append(path, [record])


def append(path: str | Path, records: Iterable[dict], flush: bool = False) -> None:
    """Append objects, a line each: all of them, or none if the disk refuses. flush: wait until they are on the disk.

    Raises: UserError if the disk refuses.
    """
    data = encoded("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    with writing(path, needed=len(data)), open(path, "ab", buffering=0) as file:
        before, left = file.seek(0, os.SEEK_END), memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
            if flush:
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(before)
            raise


def drop_torn_line(path: str | Path) -> None:
    """Cut a last line without its end off a JSON-lines file of ours, to which the next record would be glued."""
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Read the objects of a JSON-lines file of ours, without a last line that a kill has torn.

    Raises: UserError if the file cannot be read, or another line is broken.
    """
    lines = _text(path, "JSON lines").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                return
            raise UserError(f"{path}, line {number} is not JSON: the file was edited, cut off or damaged") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} cannot be read ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} holds no JSON object: the file was edited or damaged")
        yield record
