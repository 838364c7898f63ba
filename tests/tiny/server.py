"""A web server for shards: range requests, entity tags, and every trouble that a test asks for."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# What is wrong with an answer: a status, "cut" (half of the body, then the end), "slow" (0.6 s of silence) or None.
Fault = int | str | None


@dataclass
class Server:
    """Serves the files of `folder` at `url`; `requests` are (method, name, start, stop) in their order."""

    folder: Path
    url: str = ""
    ranges: bool = True
    fault: Callable[[int, str], Fault] = lambda number, method: None  # of the n-th request, from 0 on
    requests: list[tuple[str, str, int, int]] = field(default_factory=list)
    sent: int = 0  # bytes of contents


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            name = self.path.partition("?")[0].lstrip("/")
            number, fault = len(server.requests), server.fault(len(server.requests), self.command)
            if fault == "slow":
                time.sleep(0.6)
            path = folder / name
            if not isinstance(fault, int) and not path.is_file():
                fault = 404
            if isinstance(fault, int):
                server.requests.append((self.command, name, number, fault))
                self.send_response(fault)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            size, tag = len(content), md5(content).hexdigest()
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.ranges else None
            start, stop = (int(asked[1]), min(size, int(asked[2]) + 1)) if asked else (0, size)
            server.requests.append((self.command, name, start, stop))
            if start >= size:
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("ETag", f'"{tag}"')
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if self.command == "GET":
                body = content[start : start + (stop - start) // 2] if fault == "cut" else content[start:stop]
                server.sent += len(body)
                self.wfile.write(body)
                self.close_connection = fault == "cut"

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    server.url = f"http://127.0.0.1:{web.server_address[1]}"
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
