"""Files: directories that appear whole or not at all, hashes of content, and JSON."""

import ctypes
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
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
# What `atomic_directory` calls its directories; `recover` touches nothing else.
_LEFT = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>tmp|old)")


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


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Give a directory to write into. On success it takes the place of `path`, on failure it is removed.

    Everything is flushed before one rename, so a kill never leaves a half-written `path`, nor none at all. Who may read
    it is what the umask says, whatever a library gave its files.
    Raises: UserError, before anything is done, if nothing can take the place of `path`.
    """
    path = Path(path)
    is_mount = os.path.ismount(path)  # not Path's, which until Python 3.12 takes a link to another disk for one
    if path.name in ("", "..") or is_mount:  # "." has no name
        reason = "it is a mount point" if is_mount else "it has no name of its own"
        raise UserError(f"{path} cannot be replaced, {reason}: give a folder in it, such as {path / 'new'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    partial.mkdir()
    mode = partial.stat().st_mode & 0o666  # what the umask leaves to a file; safetensors writes for the owner alone
    try:
        yield partial
        for folder, _, files in os.walk(partial):
            for name in files:
                file = Path(folder) / name
                if not file.is_symlink():
                    file.chmod(mode)
                sync(file)
            sync(Path(folder))
        replace_directory(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_directory(new: Path, path: Path) -> None:
    """Give the directory `new` the name `path`, at which there is a whole one at every moment, and delete an older one.

    Where the system cannot exchange two names, the older one is moved aside to `.NAME.*.old` for the moment of the
    rename: its content is never lost, and `recover` puts it back.
    """
    replaced = new.with_suffix(".old")
    if not path.exists():
        os.rename(new, path)
    elif _exchange(new, path):
        replaced = new
    else:
        os.rename(path, replaced)
        try:
            os.rename(new, path)
        except BaseException:
            os.rename(replaced, path)
            raise
    sync(path.parent)
    if replaced.is_symlink():  # to a directory elsewhere, which is left alone
        replaced.unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names by one rename, after which each has the other's content; False where that cannot be had."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux; not every file system has it
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
        return True
    problem = ctypes.get_errno()
    if problem in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(problem, os.strerror(problem), str(second))


def recover(folder: Path) -> None:
    """Finish what a kill inside `atomic_directory` left in `folder`, into which nobody else may be writing.

    A directory that was moved aside and not replaced yet comes back; half-written ones are deleted.
    """
    for left in folder.glob(".*"):
        name = _LEFT.fullmatch(left.name)
        if name is None or not left.is_dir():
            continue
        if name["kind"] == "old" and not (folder / name["name"]).exists():
            os.rename(left, folder / name["name"])
        else:
            shutil.rmtree(left)


def encoded(text: str) -> bytes:
    """UTF-8. A byte of a file's name that is none, in Python a lone surrogate, is written out: \\udce9.

    In JSON that is an escape, by which the name is read back as it was.
    """
    return text.encode(errors="backslashreplace")


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
