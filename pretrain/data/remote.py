"""Files in a store, named by URL: s3://, gs://, hf://, https:// and whatever else fsspec knows.

Credentials, endpoints and options come from where the store's fsspec package looks for them (AWS_*, HF_TOKEN,
GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_*, ~/.config/fsspec).
"""

import re
import sys
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from os import getpid
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pretrain.data.retries import ShortAnswer, http_status, persist
from vlm.errors import UserError

SUFFIXES = (".tar", ".parquet", ".arrow")
CONNECT_SECONDS, SILENT_SECONDS = 15, 60  # an HTTP server that says nothing for so long is asked again
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
EXTRAS = {"s3fs": "s3", "gcsfs": "gcs"}  # of this project
# What a store calls a file's entity tag or content hash; if it has none, its time.
STAMPS = ("ETag", "etag", "blob_id", "xet_hash", "md5Hash", "Content-MD5", "generation")
TIMES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "created")
Result = TypeVar("Result")


def is_remote(source: str | Path) -> bool:
    """Whether `source` is a URL of a store; file:// is this machine."""
    return isinstance(source, str) and bool(re.match(r"[A-Za-z][\w+.-]*://", source)) and not source.startswith("file:")


def stat(url: str) -> tuple[int, str | None]:
    """A file's size in bytes and its entity tag, content hash or time, if the store tells one. Raises: UserError."""

    def ask(store: Any, path: str) -> tuple[int, str | None]:
        if store.async_impl:  # else a listing that is minutes old may answer; the hub's is good for a process
            store.invalidate_cache(store._parent(path))
        info = store.info(path)
        if info["type"] == "directory":
            raise UserError(f"{public_url(url)} is a folder, not a shard")
        if info.get("size") is None:
            raise UserError(f"the server of {public_url(url)} does not tell its size: download it first")
        stamps = (info.get(name) for name in (*STAMPS, *TIMES))
        stamp = next((str(value).strip('"') for value in stamps if value), None)
        return int(info["size"]), stamp

    return _persist(url, ask)


def fetch(url: str, start: int, stop: int, size: int) -> bytes:
    """The bytes from `start` to `stop` of a file of `size` bytes, by one range request. Raises: UserError."""

    def get(store: Any, path: str) -> bytes:
        # Where fsspec has no range request of its own it opens the file, and would read megabytes ahead.
        options = {} if store.async_impl else {"cache_type": "none", "size": size}
        try:
            data = store.cat_file(path, start=start, end=stop, **options)
        except Exception as error:
            if http_status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _shorter(url) from error
            raise
        if len(data) > stop - start:
            raise _no_ranges(url)
        if len(data) < stop - start:
            if stat(url)[0] < stop:
                raise _shorter(url)
            raise ShortAnswer(f"{len(data):,} of {stop - start:,} bytes came")
        return data

    return _persist(url, get) if stop > start else b""


def _shorter(url: str) -> UserError:
    return UserError(f"{public_url(url)} became shorter after it was listed: restore it, then resume")


def refuse_without_ranges(url: str, size: int) -> None:
    """Ask a server for one byte of the middle, without waiting for a whole shard if it gives that instead.

    Raises: UserError if it does not answer range requests.
    """

    def ask(store: Any, path: str) -> None:
        middle = max(1, size // 2)
        with store.open(path, "rb", cache_type="none", block_size=1, size=size) as file:
            file.seek(middle)
            try:
                file.read(1)
            except ValueError as error:
                if "range requests" not in str(error):
                    raise
                raise _no_ranges(url) from error

    if _scheme(url) in ("http", "https") and size > 1:
        _persist(url, ask)


def _no_ranges(url: str) -> UserError:
    needed = "shards are read by HTTP range requests, which it must answer with 206"
    return UserError(f"the server of {public_url(url)} ignores ranges; {needed}: take another server, or download them")


def find(source: str) -> list[str]:
    """The shards that one URL, glob pattern or folder of a store stands for, sorted.

    A folder that holds files named train-* stands for those alone. Raises: UserError if nothing is there, or the
    store cannot be listed.
    """
    if place(source).endswith(SUFFIXES) and not _has_magic(source):
        return [source]
    if _scheme(source) in ("http", "https"):
        if not _has_magic(source) and urlsplit(source).query:
            return [source]  # such as https://host/download?file=7
        wanted = "name the shards by a brace pattern such as https://host/{000..099}.tar, or join several with ::"
        raise UserError(f"{public_url(source)}: web servers are not listed; {wanted}")

    def ask(store: Any, path: str) -> list[str]:
        store.invalidate_cache()
        names = store.glob(path) if _has_magic(source) else store.find(path)
        return sorted(name for name in names if name.endswith(SUFFIXES))

    names = _persist(source, ask)
    if not names:
        raise UserError(f"{public_url(source)} holds no {', '.join(SUFFIXES)} file: check the address")
    if not _has_magic(source):
        kind = next(suffix for suffix in SUFFIXES if any(name.endswith(suffix) for name in names))
        names = [name for name in names if name.endswith(kind)]
        chosen = [name for name in names if name.rsplit("/", 1)[-1].startswith("train-")]
        if 0 < len(chosen) < len(names):
            rest = f"not {len(names) - len(chosen)} more {kind} files (name them with a pattern)"
            print(f"of {public_url(source)} only train-* is read, {rest}", file=sys.stderr)
        names = chosen or names
    return [f"{_scheme(source)}://{name.lstrip('/')}" for name in names]


def suffix(url: str) -> str:
    """.tar, .parquet or .arrow as the URL's path or else its query ends; of others what the path ends in."""
    return next((suffix for suffix in SUFFIXES if place(url).endswith(suffix)), Path(urlsplit(url).path).suffix)


def place(url: str) -> str:
    """Host and path; with the query if the path alone does not name a shard. Signatures come and go, shards stay."""
    parts = urlsplit(url)
    host = parts.netloc.rsplit("@", 1)[-1]
    if parts.path.endswith(SUFFIXES) or not parts.query or _scheme(url) not in ("http", "https"):
        return host + unquote(parts.path)
    return f"{host}{unquote(parts.path)}?{parts.query}"


def public_url(url: str) -> str:
    """The URL as messages and records name it: without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _has_magic(url: str) -> bool:
    """Whether it is a glob pattern; a ? starts the query of a web address."""
    return any(character in url for character in ("*[" if _scheme(url) in ("http", "https") else "*[?"))


def _persist(url: str, call: Callable[[Any, str], Result]) -> Result:
    """call(store, path of the URL in it), again and again while what goes wrong may pass."""

    def once() -> Result:
        store = _store(getpid(), url.split("://")[0] + "://" + urlsplit(url).netloc, "%" in url)
        return call(store, store._strip_protocol(url))

    return persist(once, public_url(url))


@cache
def _store(process: int, root: str, encoded: bool) -> Any:
    """The fsspec file system of a process: those that are asynchronous do not survive a fork.

    root: scheme and host or bucket. encoded: the URL's path and query are quoted already.
    """
    import fsspec

    scheme = _scheme(root)
    try:
        options = _http_options(encoded) if scheme in ("http", "https") else {}
        return fsspec.core.url_to_fs(root, **options)[0]
    except ImportError as error:
        package = PACKAGES.get(scheme) or getattr(error, "name", None) or "its fsspec package"
        extra = f", or this project with its extra: pip install -e '.[{EXTRAS[package]}]'" if package in EXTRAS else ""
        raise UserError(f"{scheme}:// needs {package}: pip install {package}{extra}") from error
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise UserError(f"{scheme}:// is not known: give s3://, gs://, hf://, https:// or a path") from error


def _http_options(encoded: bool) -> dict[str, Any]:
    """Options of fsspec's HTTP file system: the user's own, and time-outs and proxies (*_PROXY, ~/.netrc) beside."""
    import aiohttp
    from fsspec.config import conf

    given = {**conf.get("http", {}), **conf.get("https", {})}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    client = {"timeout": timeout, "trust_env": True, **given.pop("client_kwargs", {})}
    headers = {"Accept-Encoding": "identity", **given.pop("headers", {})}
    return {**given, "client_kwargs": client, "headers": headers, "encoded": encoded}
