"""What a folder holds, by SHA-256: recorded when it is written, verified before a byte of it is used.

A record is JSON, {"path/in/folder": [bytes, sha256]}. Those who read one may have it from a stranger: it must say what
it should, and nothing in the folder may be left out.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.files import file_sha256, json_text

THREADS = min(8, os.cpu_count() or 1)  # hashing leaves the interpreter to others
_DIGEST = re.compile(r"[0-9a-f]{64}")


def listing(folder: Path) -> list[str]:
    """Everything in `folder` that is no directory, with "/" between the parts, sorted; links are not followed."""
    names = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        names += [os.path.relpath(os.path.join(parent, name), folder) for name in files + links]
    return sorted(name.replace(os.sep, "/") for name in names)


def hashed(folder: Path, names: Iterable[str]) -> dict[str, list]:
    """The record of the files `names` of a folder: their sizes and SHA-256, several at a time."""
    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(lambda name: file_sha256(folder / name), names))
    return {name: [(folder / name).stat().st_size, digest] for name, digest in zip(names, digests)}


def read_record(file: Path) -> dict[str, Any]:
    """Parse the JSON object in `file`, which must be a regular file in which no key is there twice.

    Raises: UserError if it is anything else.
    """
    if not file.is_file():
        raise UserError(f"{file} is no regular file" if file.exists() else f"{file} does not exist")
    try:
        found = json.loads(json_text(file), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def difference(folder: Path, files: Any, counts: Callable[[str], bool], record: str) -> str | None:
    """How `folder` differs from the record `files`, or None. Sizes come first: they cost nothing.

    counts: whether a file must be recorded, by its name; others may be there or not. record: its name, for messages.
    """
    if not isinstance(files, dict) or not files:
        return f"{folder / record} lists no files"
    for name, entry in files.items():
        if not _plausible(name, entry):
            return f"{folder / record} cannot list {name!r}: {entry!r}"[:300]
    if unlisted := [name for name in listing(folder) if counts(name) and name not in files]:
        return f"{folder / unlisted[0]} is not listed in {record}"
    for name, (size, _) in files.items():
        path = folder / name
        if not os.path.isfile(path) or path.stat().st_size != size:
            return _differs(path)
    found = hashed(folder, files)
    changed = next((name for name, entry in files.items() if found[name] != entry), None)
    return _differs(folder / changed) if changed else None


def _differs(path: Path) -> str:
    return f"{path} is missing or not what was written"


def _plausible(name: str, entry: Any) -> bool:
    """Whether a record's line names a file inside the folder, its size and a SHA-256."""
    inside = len(name) < 1024 and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))
    if not inside or not isinstance(entry, list) or len(entry) != 2:
        return False
    size, digest = entry
    return type(size) is int and size >= 0 and isinstance(digest, str) and bool(_DIGEST.fullmatch(digest))
