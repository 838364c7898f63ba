"""What a folder holds, by SHA-256: recorded when it is written, verified before a byte of it is used.

A record is JSON, {"path/in/folder": [bytes, sha256]}. It may come from a stranger: it must say what it should, and
nothing in the folder may be left out. Checkpoints have one in their manifest.json (`vlm.run.checkpoints`). A model's
folder, RUN/encoder, RUN/vlm or an export, has it in levlm_manifest.json, {"files": record}; one without it, from other
tools, is loaded as it is.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.files import cache_folder, file_sha256, write_json

MANIFEST = "levlm_manifest.json"  # of a model's folder; stock tools pass over it
THREADS = min(8, os.cpu_count() or 1)  # hashing leaves the interpreter to others
WORTH_IT = 1 << 26  # bytes of a folder, from which on hashing is worth remembering: about 0.1 seconds
FRESH = 7 * 24 * 3600  # seconds: what rots on a disk changes no time of a file
_NOT_LOADED = ("", ".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".html", ".log")
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
        found = json.loads(file.read_bytes(), object_pairs_hook=_unique)
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


def write_manifest(folder: Path) -> dict[str, list]:
    """Record what `folder` holds, a model of this project, in its levlm_manifest.json; returns the record."""
    record = hashed(folder, filter(_counts, listing(folder)))
    write_json(folder / MANIFEST, {"files": record})
    return record


def verify(folder: Path, afresh: bool = False) -> bool:
    """Compare a model's folder with its levlm_manifest.json -> whether it has one.

    A large folder that was found whole is not hashed again for `FRESH` seconds while its files keep their size, times
    and place on the disk. afresh: hash it anyway.
    Raises: UserError if a file is missing, differs, or is there and not listed: loading it could change the model.
    """
    if not os.path.lexists(folder / MANIFEST):
        return False
    if problem := changed(folder, afresh):
        advice = f"if you changed it on purpose, `vlm doctor {folder} --accept` records it as it is now"
        raise UserError(f"{problem}: copy {folder} again or make it anew; {advice}")
    return True


def changed(folder: Path, afresh: bool = False) -> str | None:
    """How a folder differs from its levlm_manifest.json, which may be damaged itself, or None. afresh: as `verify`."""
    try:
        return _problem(folder, afresh)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"


def _problem(folder: Path, afresh: bool) -> str | None:
    files = read_record(folder / MANIFEST).get("files")
    stamp = _stamp(folder, files)
    if stamp is not None and _is_fresh(stamp) and not afresh:
        return None
    problem = difference(folder, files, _counts, MANIFEST)
    if stamp is not None and problem is None:
        _put(stamp)
    return problem


def _counts(name: str) -> bool:
    """Whether a loader may read the file: the manifest has it. People edit cards and add pictures as they like."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and name != MANIFEST and Path(name).suffix.lower() not in _NOT_LOADED


def _stamp(folder: Path, files: Any) -> Path | None:
    """The empty file which says that this very state of a folder was verified; None for one that is hashed in no time.

    Its name holds everything that changes if a file is written to: the time of its inode too, which no tool sets back.
    None also while a file is so young that one more change might leave its times as they are.
    """
    states, total, newest = [f"{folder.resolve()} {files}"], 0, 0.0
    for name in filter(_counts, listing(folder)):
        state = (folder / name).stat()
        states.append(f"{name} {state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}")
        total, newest = total + state.st_size, max(newest, state.st_mtime, state.st_ctime)
    if total < WORTH_IT or time.time() - newest < 2:
        return None
    return cache_folder("verified") / hashlib.sha256("\n".join(states).encode(errors="surrogatepass")).hexdigest()


def _is_fresh(stamp: Path) -> bool:
    return stamp.is_file() and abs(time.time() - stamp.stat().st_mtime) < FRESH


def _put(stamp: Path) -> None:
    """Leave the stamp, and remove those that are of no more use. Without it the next load hashes again, no more."""
    with suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        for old in stamp.parent.iterdir():
            if not _is_fresh(old):
                old.unlink()
        stamp.touch()
