"""Lists what each tar of a set holds, and keeps it on disk as the manifest that `pretrain.data.manifest` reads."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pretrain.data import tars
from pretrain.data.ahead import DaemonThreads
from pretrain.data.captions import field_names, text_fields
from pretrain.data.remote import is_remote
from pretrain.data.samples import Fields
from pretrain.data.shards import STORE_REQUESTS, Version, public_path, versions
from vlm.directories import atomic_directory
from vlm.distributed import is_main
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.run.progress import progress
from vlm.run.signals import end_with_parent

VERSION = 3  # of a manifest's files; another number is built again


def is_current(folder: Path, paths: Sequence[str | Path], sha256: bool, asked: Sequence[Version] | None = None) -> bool:
    """Whether the cached manifest is whole, and every shard still has the size and stamp that it names.

    asked: the shards' versions, if they are known already.
    """
    try:
        shards = read_json(folder / "manifest.json")["shards"]
        now = asked or versions(paths)
        current = all(version == listed(shard) for version, shard in zip(now, shards, strict=True))
    except (UserError, LookupError, TypeError, ValueError, OSError):  # a shard that is gone is reported by the scan
        return False
    return current and (not sha256 or all(shard["sha256"] for shard in shards))


def listed(shard: dict) -> Version:
    """What the manifest's record of a shard says of the file."""
    return Version(shard["size"], shard["stamp"])


def scan_all(paths: Sequence[str | Path], fields: Fields, sha256: bool) -> list[tars.Scan]:
    """Scan every shard, in processes if there are many: a shard of 10,000 samples takes about 0.3 s.

    In a store a header takes a request, for which threads wait.
    """
    one = partial(_scan, fields=fields, sha256=sha256)
    processes = min(16, os.cpu_count() or 1, len(paths) // 8)
    scans = []
    with progress(len(paths), "listing shards", "shard", show=is_main()) as bar, ExitStack() as pools:
        found: Iterable[tars.Scan] = map(one, paths)
        if is_remote(paths[0]):
            found = pools.enter_context(DaemonThreads(min(STORE_REQUESTS, len(paths)))).map(one, paths)
        elif processes > 1 and sys.platform == "linux":
            pool = ProcessPoolExecutor(processes, get_context("fork"), initializer=end_with_parent)
            pools.callback(pool.shutdown, cancel_futures=True)  # whoever is stopped does not wait for all shards
            found = pool.map(one, paths)
        for scan in found:
            scans.append(scan)
            bar.update()
    return scans


def _scan(path: str | Path, fields: Fields, sha256: bool) -> tars.Scan:
    try:
        return tars.scan(path, fields, sha256)
    except OSError as error:
        raise UserError(f"cannot read shard {path}: {error.strerror}") from None


def write(folder: Path, paths: Sequence[str | Path], scans: list[tars.Scan]) -> None:
    """Write the manifest whole or not at all. Raises: UserError if a tar holds no pair, or the disk refuses."""
    _refuse_empty(paths, scans)
    shards = []
    for path, scan in zip(paths, scans):
        found = {"samples": len(scan.samples), "damage": scan.damage, "extra": scan.extra, "sha256": scan.sha256}
        shards.append({"path": public_path(path), **scan.version._asdict(), **found})
    unusable = [(shard, index) for shard, scan in enumerate(scans) for index, _, _ in scan.unusable]
    reasons = Counter(reason for scan in scans for _, _, reason in scan.unusable)
    if lost := sum(scan.lost for scan in scans):
        reasons["behind a shard's damage (estimated)"] = lost
    try:
        with atomic_directory(folder) as building:
            np.save(building / "samples.npy", np.concatenate([scan.samples for scan in scans]))
            np.save(building / "unusable.npy", np.array(unusable, np.int64).reshape(-1, 2))
            with open(building / "unusable.jsonl", "w", encoding="utf-8") as file:
                for record in _records(scans):
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
            write_json(building / "manifest.json", {"version": VERSION, "reasons": reasons, "shards": shards})
    except OSError as error:
        if not is_current(folder, paths, False):  # else another process wrote the same a moment ago
            problem = f"cannot write the manifest to {folder}: {error.strerror}"
            raise UserError(f"{problem}; set LEVLM_CACHE to a writable folder") from None


def _refuse_empty(paths: Sequence[str | Path], scans: list[tars.Scan]) -> None:
    """Raise `UserError` if a shard holds not a single pair: it says what the first such shard holds instead."""
    empty = [(path, scan) for path, scan in zip(paths, scans) if not len(scan.samples)]
    if not empty:
        return
    path, scan = empty[0]
    reasons = Counter(reason for *_, reason in scan.unusable)
    counted = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    problem = scan.damage or counted or "no member named KEY.jpg, .png or .webp"
    found = f"; its members end in {', '.join(scan.suffixes)}" if scan.suffixes else ""
    more = f" ({len(empty)} such shards)" if len(empty) > 1 else ""
    remedy = "fetch it again, remove it, or name the suffixes with --image-column and --caption-column"
    if names := field_names(scan.document):
        remedy = f"KEY.json has the {text_fields(names)}"
    raise UserError(f"{public_path(path)} holds no image-caption pair: {problem}{found}{more}; {remedy}")


def _records(scans: list[tars.Scan]) -> Iterator[dict]:
    """The lines of unusable.jsonl: shards by number, as their names depend on where they lie."""
    for shard, scan in enumerate(scans):
        for index, key, reason in scan.unusable:
            yield {"shard": shard, "index": index, "key": key, "reason": reason}
        if scan.damage:
            after = len(scan.samples) + len(scan.unusable)
            yield {"shard": shard, "index": after, "key": None, "reason": f"short shard: {scan.damage}"}
