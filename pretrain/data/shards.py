"""The files of a tar set, here or in a store: their size, their stamp, and bytes from any place."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pretrain.data import remote
from pretrain.data.ahead import DaemonThreads, ReadAhead
from vlm.errors import UserError
from vlm.reading import check_regular

OPEN_FILES = 64
HASHED_BYTES = 8 * 2**20  # that are read at a time
STORE_REQUESTS = 32  # at a time, while shards are listed


class Version(NamedTuple):
    """What tells a file from the one that replaced it: bytes, and time (here, in ns) or entity tag (in a store)."""

    size: int
    stamp: int | str | None


class ShardFile(Protocol):
    """An open shard."""

    version: Version

    def read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start` on; fewer at the end of the file alone."""
        ...

    def close(self) -> None: ...


class LocalFile:
    """A file on this machine. Raises: OSError."""

    def __init__(self, path: str | Path):
        check_regular(path)
        self.handle = os.open(path, os.O_RDONLY)
        self.version = _version(os.fstat(self.handle))

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self.handle, length, start)

    def close(self) -> None:
        os.close(self.handle)


class RemoteFile:
    """A file in a store. Raises: UserError if the store does not give it."""

    def __init__(self, url: str):
        self.url, self.version = url, Version(*remote.stat(url))

    def read(self, start: int, length: int) -> bytes:
        return remote.fetch(self.url, start, min(start + length, self.version.size), self.version.size)

    def close(self) -> None:
        """Nothing stays open."""


def open_shard(path: str | Path) -> ShardFile:
    """Open a shard that has not been read before. Raises: OSError, UserError."""
    if not remote.is_remote(path):
        return LocalFile(path)
    file = RemoteFile(str(path))
    remote.refuse_without_ranges(file.url, file.version.size)
    return file


def versions(paths: Sequence[str | Path]) -> list[Version]:
    """Of every file, as it is now; a store is asked about many at a time. Raises: OSError, UserError."""
    if not remote.is_remote(paths[0]):
        return [_version(os.stat(path)) for path in paths]
    with DaemonThreads(min(STORE_REQUESTS, len(paths))) as threads:
        return [Version(*found) for found in threads.map(remote.stat, map(str, paths))]


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of the whole file, which is read for it."""
    file, digest, start = open_shard(path), hashlib.sha256(), 0
    while block := file.read(start, HASHED_BYTES) if start < file.version.size else b"":
        digest.update(block)
        start += len(block)
    file.close()
    return digest.hexdigest()


def as_path(path: str | Path) -> Path:
    """An absolute path by which shards are named; a URL's is host and path, without credentials and signatures."""
    return Path("/" + remote.place(str(path))) if remote.is_remote(path) else Path(path).absolute()


def public_path(path: str | Path) -> str:
    """The path as messages name it: a URL without credentials and signatures."""
    return remote.public_url(str(path)) if remote.is_remote(path) else str(path)


class LocalShards:
    """Bytes of shards on this machine; the least recently used one of too many open files is closed."""

    reads_ahead = False

    def __init__(self, paths: Sequence[str | Path], listed: Sequence[Version]):
        """listed: what the manifest says of each file."""
        self.paths, self.listed = paths, listed
        self._open: OrderedDict[int, LocalFile] = OrderedDict()

    def read(self, shard: int, start: int, size: int) -> bytes:
        """`size` bytes of a shard from `start` on. Raises: UserError if the shard is shorter than it was."""
        data = self._file(shard).read(start, size)
        if len(data) < size:
            raise UserError(f"{self.paths[shard]} became shorter during the run: restore it, then resume")
        return data

    def prefetch(self, *steps: Iterable[tuple[int, int, int]]) -> None:
        """Nothing: the system reads ahead."""

    def _file(self, shard: int) -> LocalFile:
        if shard not in self._open:
            if len(self._open) == OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            try:
                file = self._open[shard] = LocalFile(self.paths[shard])
            except OSError as error:
                raise UserError(f"cannot read shard {self.paths[shard]}: {error.strerror}") from None
            if file.version != self.listed[shard]:
                raise replaced(self.paths[shard])
        self._open.move_to_end(shard)
        return self._open[shard]


class RemoteShards:
    """Bytes of shards in a store, read ahead on threads; each process looks once whether a shard is the listed one."""

    reads_ahead = True

    def __init__(self, urls: Sequence[str], listed: Sequence[Version]):
        self.urls, self.listed = urls, listed
        self._ahead = ReadAhead(self._open)

    def read(self, shard: int, start: int, size: int) -> bytes:
        return self._ahead.read(shard, start, size)

    def prefetch(self, *steps: Iterable[tuple[int, int, int]]) -> None:
        """Start reading (shard, start, size) of the coming steps, the soonest first; what else was ahead is dropped."""
        self._ahead.prefetch(*steps)

    def _open(self, shard: int) -> RemoteFile:
        file = RemoteFile(self.urls[shard])
        if file.version != self.listed[shard]:
            raise replaced(self.urls[shard])
        return file


def shards_at(paths: Sequence[str | Path], listed: Sequence[Version]) -> LocalShards | RemoteShards:
    if remote.is_remote(paths[0]):
        return RemoteShards([str(path) for path in paths], listed)
    return LocalShards(paths, listed)


def replaced(path: str | Path) -> UserError:
    return UserError(f"{public_path(path)} was replaced after it was listed: restore it, or start a new run")


def _version(status: os.stat_result) -> Version:
    return Version(status.st_size, status.st_mtime_ns)
