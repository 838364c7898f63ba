"""What stands in front of the page: who may ask, for what, and how much may be sent.

Gradio itself checks none of this. A page on another site could otherwise send questions to a server on this machine,
or, by a host name that it points at 127.0.0.1 (DNS rebinding), read the answers.
"""

import asyncio
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, UploadFile  # pyrefly: ignore[missing-import] comes with the extra `web`
from starlette.formparsers import MultiPartException, MultiPartParser  # pyrefly: ignore[missing-import]

from vlm.apps.web_uploads import Uploads
from vlm.errors import UserError
from vlm.images import decode

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# All that the page asks for. Gradio has more: a proxy, calls without the queue, components' own servers.
API = "/gradio_api/"
UPLOAD = API + "upload"
GET_ALSO = {"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"}
GET_UNDER = ("/assets/", "/static/", "/svelte/", API + "heartbeat/", API + "theme.css")
FILE = API + "file="  # in front of the path of an uploaded picture or an example
GET_API = {API + name for name in ("queue/data", "upload_progress", "startup-events", "info", "app_id")}
POST = {UPLOAD, *(API + name for name in ("queue/join", "run/predict", "cancel", "reset"))}  # predict: examples
BODY_LIMIT = 1_000_000  # bytes of a request that is no upload
MULTIPART = 10_000  # bytes that an upload may have beside its picture
SUFFIXES = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif")
DRAINED_BYTES, DRAINED_SECONDS = 1_000_000_000, 20  # of a body that is refused
BODY_SECONDS = 60  # in which a body must have come
UPLOADS = 4  # that are in memory at a time; others wait

# The browser itself refuses whatever would leave for another machine. Gradio's own code needs the two `unsafe`.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
ADDED = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


class Refused(Exception):
    """A request that is not answered, with its HTTP status and the reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Gate:
    """An ASGI application that hands on to `app` what it may have.

    names: host names that browsers may use, in lower case. addresses: whether any IP address is one as well, for a
    server that other machines reach; no site can point at those. max_upload: bytes of a picture. uploads: where they
    are kept.
    """

    def __init__(self, app: Any, names: Iterable[str], addresses: bool, max_upload: int, uploads: Uploads):
        self.uploads = uploads
        self.app, self.names, self.addresses, self.max_upload = app, frozenset(names), addresses, max_upload
        # One picture at a time, always on the same thread: a large one takes hundreds of megabytes, and glibc leaves
        # some of what is freed to the thread that had it.
        self._decoding = ThreadPoolExecutor(1)
        self._uploads = asyncio.Semaphore(UPLOADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            incoming = _Incoming(receive)
            try:
                async with self._uploads if scope["path"] == UPLOAD else nullcontext():
                    await self.app(scope, await self._checked(scope, incoming), _hardened(send))
            except Refused as refused:
                await _drain(scope, incoming)
                await _answer(send, refused)
        else:
            await send({"type": "websocket.close"})

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What to read the request's body from. Raises: Refused."""
        headers = Headers(scope=scope)
        self._check_sender(headers, scope["method"], scope["path"])
        self._check_path(scope["method"], scope["path"])
        # By these a request could say what address the page is to use.
        scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith((b"x-forwarded", b"forwarded"))]
        if scope["method"] != "POST":
            return receive
        uploads = scope["path"] == UPLOAD
        body = await _read(headers, receive, self.max_upload if uploads else BODY_LIMIT, MULTIPART)
        if uploads:
            await self._check_pictures(headers, body)
            await asyncio.to_thread(self.uploads.trim)
        else:
            self._check_files(body)
        return _replay(body, receive)

    def _check_sender(self, headers: Headers, method: str, path: str) -> None:
        if not self._is_ours(headers.get("host", "")):
            raise Refused(403, "this page is not served under the host name of this request; allow it with --name")
        origin = headers.get("origin")
        if origin is not None and (
            urlsplit(origin).scheme not in ("http", "https")
            or urlsplit(origin).netloc.lower() != headers["host"].lower()
        ):
            raise Refused(403, "the request comes from a page of another site")
        followed = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"  # a link to the page
        if headers.get("sec-fetch-site") == "cross-site" and not followed:
            raise Refused(403, "the request comes from a page of another site")

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit("//" + host)
            name, _ = parts.hostname, parts.port  # the port may be another one, as through ssh -L; but it is a number
        except ValueError:
            return False
        if not name or parts.path or parts.query or parts.fragment or parts.username is not None:
            return False
        return name.rstrip(".") in self.names or (self.addresses and _is_address(name))

    def _check_files(self, body: bytes) -> None:
        """Refuse JSON that names a file which was not uploaded: Gradio would fetch an address, and copy any file."""
        try:
            found = list(_file_paths(json.loads(body or b"null")))
        except (ValueError, RecursionError):
            raise Refused(400, "the request is no JSON") from None
        for path in found:
            if not isinstance(path, str) or not self._is_kept(path):
                raise Refused(403, "a picture is sent as a file, not named by a path or an address; send it again")

    def _is_kept(self, path: str) -> bool:
        """Whether a path is that of a regular file in the folder of uploads, links followed."""
        try:
            found = Path(path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return False
        return self.uploads.folder in found.parents and found.is_file()

    def _check_path(self, method: str, path: str) -> None:
        got = path in GET_ALSO or path in GET_API or path.startswith(GET_UNDER)
        # The same answer for a file that is there and for one that is not.
        got = got or (path.startswith(FILE) and self._is_kept(path.removeprefix(FILE)))
        odd = ".." in path.split("/") or "//" in path or "\\" in path
        known = (method in ("GET", "HEAD") and got) or (method == "POST" and path in POST)
        if odd or not known:
            raise Refused(404, "there is nothing here")

    async def _check_pictures(self, headers: Headers, body: bytes) -> None:
        """Refuse an upload unless each file in it is a picture that `vlm.images` can read."""
        for name, data in await _files(headers, body):
            if len(data) > self.max_upload:
                raise Refused(413, _too_large(self.max_upload))
            _, dot, suffix = name.rpartition(".")
            if dot and suffix.lower() not in SUFFIXES:
                raise Refused(415, f"a picture's name ends with {', '.join(SUFFIXES)}, not {suffix[:20]!r}")
            problem = await asyncio.get_running_loop().run_in_executor(self._decoding, _problem, data)
            if problem is not None:
                raise Refused(415, problem)


def _problem(data: bytes) -> str | None:
    """Why a file is no picture that can be read, if it is none. An exception would keep its half of a picture."""
    try:
        decode(data)
    except UserError as error:
        return str(error)
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _file_paths(data: Any) -> Iterator[Any]:
    """What stands under "path" anywhere in parsed JSON."""
    if isinstance(data, dict):
        if "path" in data:
            yield data["path"]
        data = list(data.values())
    if isinstance(data, list):
        for part in data:
            yield from _file_paths(part)


def _too_large(limit: int) -> str:
    return f"too large: {limit / 1e6:g} MB are allowed"


async def _read(headers: Headers, receive: Receive, limit: int, margin: int) -> bytes:
    """The whole body, in memory. Raises: Refused above `limit + margin` bytes, if its size is told before any came."""
    told = headers.get("content-length", "0")
    if not told.isascii() or not told.isdigit():
        raise Refused(400, "Content-Length is no number")
    if int(told) > limit + margin:
        raise Refused(413, _too_large(limit))
    body, end = bytearray(), time.monotonic() + BODY_SECONDS
    while True:
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except asyncio.TimeoutError:
            raise Refused(408, f"the request did not come within {BODY_SECONDS} s") from None
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request was broken off")
        body += message.get("body", b"")
        if len(body) > limit + margin:
            raise Refused(413, _too_large(limit))
        if not message.get("more_body", False):
            return bytes(body)


async def _files(headers: Headers, body: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of the files in a form."""

    class InMemory(MultiPartParser):
        spool_max_size = len(body) + 1  # starlette writes larger files to disk

    async def stream() -> Any:
        yield body

    if not headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(400, "an upload is a form of files")
    try:
        form = await InMemory(headers, stream(), max_files=1, max_fields=10).parse()
        files = [item for _, item in form.multi_items() if isinstance(item, UploadFile)]
        contents = [(file.filename or "", await file.read()) for file in files]
        await form.close()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise Refused(400, f"this form cannot be read: {error}") from None
    if not contents:
        raise Refused(400, "the form holds no file")
    return contents


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what comes after it: that the client has gone."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return replayed


class _Incoming:
    """The messages of a request, and whether more of its body is to come."""

    def __init__(self, receive: Receive):
        self.receive, self.more = receive, True

    async def __call__(self) -> dict[str, Any]:
        message = await self.receive()
        self.more = message.get("more_body", False)
        return message


async def _drain(scope: Scope, incoming: _Incoming) -> None:
    """Read on and forget: a client that is still sending would meet a closed connection, and not see the answer."""
    if Headers(scope=scope).get("expect") or scope["method"] in ("GET", "HEAD"):
        return
    size, end = 0, time.monotonic() + DRAINED_SECONDS
    while incoming.more and size < DRAINED_BYTES:
        try:
            message = await asyncio.wait_for(incoming(), end - time.monotonic())
        except asyncio.TimeoutError:
            return
        size += len(message.get("body", b""))


async def _answer(send: Send, refused: Refused) -> None:
    body = refused.reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *ADDED]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _hardened(send: Send) -> Send:
    async def sent(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *ADDED]
        await send(message)

    return sent
