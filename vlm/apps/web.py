"""`vlm web`: serves a page on which a VLM answers questions about a picture."""

import importlib.util
import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from vlm.apps.loading import open_vlm
from vlm.apps.settings import WebSettings
from vlm.apps.status import Status
from vlm.apps.web_examples import examples, find_world
from vlm.errors import UserError
from vlm.llava.folder import load_processor
from vlm.run.signals import WORDS, Stopped

LOOPBACK = ("localhost", "127.0.0.1", "::1")
CONNECTIONS = 200  # at a time


def serve(settings: WebSettings) -> None:
    """Serve until a signal. Raises: UserError if the extra is missing, the port is taken, or the folder is no VLM."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install -e '.[web]'")
    # Mistakes come before the model, which takes long.
    load_processor(settings.folder)
    world = find_world(settings.folder, settings.world)
    with _listening(settings) as listening, tempfile.TemporaryDirectory(prefix="levlm-web-") as folder:
        _tell_if_open(settings)
        vlm = open_vlm(settings)
        # Read when Gradio is imported: nothing is reported to its makers, and uploads lie where they are deleted.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # of 10,000 that it would remember
        with Status("making the page"):
            app, session = _application(vlm, settings, examples(world) if world else [], Path(folder))
        threading.Thread(target=app.uploads.look_after, args=[session.closing]).start()
        try:
            _run(app, listening, settings)
        finally:
            session.closing.set()


def _listening(settings: WebSettings) -> socket.socket:
    """A socket that listens, before anything slow. Raises: UserError if it cannot."""
    where = f"--host {settings.host} --port {settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen at {where} ({reason}): give another --port, 0 for any free one") from None
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell_if_open(settings: WebSettings) -> None:
    if not _is_loopback(settings.host):
        print(
            f"warning: --host {settings.host} opens the page to every machine that can reach this one, without a "
            "password and without encryption: anyone there can upload pictures and use this machine's time",
            file=sys.stderr,
        )


def _application(vlm: Any, settings: WebSettings, shown: list[tuple[str, str]], uploads: Path) -> tuple[Any, Any]:
    """The ASGI application behind its gate, and the session that its buttons use."""
    import gradio as gr  # pyrefly: ignore[missing-import] takes seconds, and comes with the extra `web`
    from fastapi import FastAPI  # pyrefly: ignore[missing-import]

    from vlm.apps.web_gate import Gate
    from vlm.apps.web_page import CSS, FONTS, Session, build_page
    from vlm.apps.web_uploads import Uploads

    session = Session(vlm, settings.max_new_tokens)
    page = build_page(session, f"LeVLM: {os.path.normpath(settings.folder)}", shown)
    limit = int(settings.max_upload * 1e6)
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None, docs_url=None, redoc_url=None), page, path="/",
        theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]), css=CSS,
        footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
        max_file_size=limit,
    )  # fmt: skip
    names = {*LOOPBACK, *(name.lower() for name in settings.name)}
    is_open = not _is_loopback(settings.host)
    if is_open:
        names |= {settings.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Gate(app, names, is_open, limit, Uploads(uploads, limit, page.temp_file_sets)), session


def _run(app: Any, listening: socket.socket, settings: WebSettings) -> None:
    import uvicorn  # pyrefly: ignore[missing-import]

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listening.getsockname()[1]}"

    class Server(uvicorn.Server):
        told: int | None = None  # the signal that ends it

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"{settings.folder}: the page is at {address} (Ctrl-C stops)", flush=True)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals that are not ignored end the server; nothing is raised in its event loop. Main thread only."""
            before = {number: signal.getsignal(number) for number in WORDS}
            obeyed = [number for number, handler in before.items() if handler != signal.SIG_IGN]
            for number in obeyed:
                signal.signal(number, self.handle_exit)
            try:
                yield
            finally:
                for number in obeyed:
                    signal.signal(number, before[number])

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.told = self.told or sig
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # An open tab holds a stream that is cut off here; uvicorn would log that as an error of the application.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="on", ws="none", proxy_headers=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = Server(config)
    server.run(sockets=[listening])
    if server.told is not None:
        raise KeyboardInterrupt if server.told == signal.SIGINT else Stopped(server.told)
