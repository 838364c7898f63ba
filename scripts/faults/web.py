"""`vlm web` as a server: 1,000 turns of talk, hostile uploads, paths that lead elsewhere, requests of other sites."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from faults import hostile
from faults.fault import Fault, Sweep, demand
from faults.folders import whole
from faults.served import Page
from vlm.apps.web_uploads import KEPT_FILES

TURNS, SHOWN_AT = 1_000, (100, 500, 1_000)
GROWTH = 20e6  # bytes from turn 500 to turn 1,000; the allocator's own are about 8e6
UPLOADS, LARGEST = 100, 1_000_000  # bytes of a picture
BAD_UPLOADS_GROWTH = 300e6  # bytes: one picture of the largest kind
FILE = "/gradio_api/file="
TRAVERSALS = [
    start + dots * 8 + end
    for start in (FILE, "/", "/gradio_api/", "/static/", "/assets/", "/gradio_api/file/")
    for dots, end in (
        ("../", "etc/passwd"), ("%2e%2e/", "etc/passwd"), ("..%2f", "etc%2fpasswd"), ("..%252f", "etc%252fpasswd"),
        ("..\\", "etc\\passwd"), ("....//", "etc/passwd"), ("..;/", "etc/passwd"), ("", "/etc/passwd"),
    )
]  # fmt: skip
TRAVERSALS += [
    FILE + path
    for path in (
        "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "/etc/passwd%00.png", "/proc/self/environ", "/dev/zero",
        "file:///etc/passwd", "http://127.0.0.1:1/x.png", "http://169.254.169.254/", "C:\\windows\\win.ini", "~/.ssh",
        "{vlm}/config.json", "{tmp}/../config.json", "{tmp}",
    )
]  # fmt: skip
STRANGERS = [
    {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "10.0.0.1"}, {"Host": "a@127.0.0.1"},
    {"Host": ""}, {"Host": "["}, {"Host": "127.0.0.1:x"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
    {"Origin": "file://"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://127.0.0.1:1"},
]  # fmt: skip


def faults(settings: Sweep) -> Iterator[Fault]:
    for many in (False, True):
        what = "of a conversation each" if many else "of one conversation"
        yield Fault(f"page: 1,000 turns {what}, with uploads", 0, partial(talk, settings, many))
    yield Fault("page: 100 bad uploads", 0, partial(bad_uploads, settings))
    yield Fault("page: paths that lead elsewhere", 0, partial(traversals, settings))
    yield Fault("page: requests of other sites", 0, partial(strangers, settings))


@contextmanager
def served(settings: Sweep, folder: Path) -> Iterator[Page]:
    """A server whose temporary files lie in FOLDER/tmp; at its end it leaves none."""
    temporary = folder / "tmp"
    temporary.mkdir()
    command = ["web", str(whole(settings, "vlm")), "--port", "0", "--max-new-tokens", "8", "--max-upload", "1"]
    process: Any = subprocess.Popen(
        [sys.executable, "-m", "vlm.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        line = next((line for line in process.stdout if "the page is at" in line), "")
        demand(bool(line), "the page does not start")
        yield Page(line.split("http://")[1].split()[0], process.pid, temporary)
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
        demand((process.returncode, rest) == (143, ""), f"it ends with {process.returncode}: {rest[-300:]}")
        demand(not any(temporary.iterdir()), f"left are {[path.name for path in temporary.iterdir()]}")
    finally:
        process.kill()
        process.wait()


def talk(settings: Sweep, many: bool, folder: Path) -> str:
    """Ask 1,000 questions; in one conversation about 500 pictures, or in 1,000 about one picture each."""
    said, resident, session, picture = [], {}, "", {}
    with served(settings, folder) as page:
        for turn in range(1, TURNS + 1):
            if many or turn % 2:
                session = f"session{turn}" if many else "session"
                picture = page.show(session, hostile.noise(turn))
            page.ask(session, picture, f"What is picture {turn}?")
            if turn in SHOWN_AT:
                resident[turn], files = page.resident(), page.files()
                said.append(f"turn {turn}: {resident[turn] / 1e6:.0f} MB, {files} files")
                demand(files <= KEPT_FILES + 3, f"{files} temporary files at turn {turn}")
    growth = resident[TURNS] - resident[TURNS // 2]
    demand(growth <= GROWTH, f"it grows by {growth / 1e6:.0f} MB from turn {TURNS // 2} on: {'; '.join(said)}")
    return "; ".join(said)


def bad_uploads(settings: Sweep, folder: Path) -> str:
    """One after another: no pictures, bombs, cut and lying ones. Each is refused, and leaves nothing."""
    pictures = list(_bad_pictures(folder))
    with served(settings, folder) as page:
        page.show("before", hostile.noise(0))
        before, files, answers = page.resident(), page.files(), []
        for number in range(UPLOADS):
            name, content, length = pictures[number % len(pictures)]
            status = page.upload(content, name, length)[0]
            demand(400 <= status < 500, f"upload {number}, {name[:40]!r} of {len(content)} bytes: {status}")
            answers.append(status)
        growth = page.resident() - before
        demand(page.files() == files, f"{page.files() - files} files of refused uploads")
        demand(growth <= BAD_UPLOADS_GROWTH, f"{growth / 1e6:.0f} MB more after {UPLOADS} bad uploads")
        page.ask("after", page.show("after", hostile.noise(1)), "What is it?")
    counts = ", ".join(f"{answers.count(status)} x {status}" for status in sorted(set(answers)))
    return f"{counts}; +{growth / 1e6:.0f} MB; it still answers"


def _bad_pictures(folder: Path) -> Iterator[tuple[str, bytes, int | None]]:
    """Name, content, and the length that the request says if that is another."""
    good = hostile.noise(0)
    for number, make in enumerate(hostile.PICTURES.values()):
        path = folder / f"bad{number}"
        make(path, folder)
        if path.is_file():
            yield "a.png", path.read_bytes(), None
    yield from ((name, good, None) for name in ("a.svg", "a.html", "a.exe", "a.png.php", "a.pkl"))
    for content in (b"", good[:-40], good[:30], b"BM" + bytes(90), b"II*\0" + bytes(90), b"<svg/>", bytes(LARGEST + 1)):
        yield "a.png", content, None
    yield "a.png", good, 10**12
    yield "a.png", bytes(3 * LARGEST), None


def traversals(settings: Sweep, folder: Path) -> str:
    """Nothing is served, and what is there is answered as what is not."""
    with served(settings, folder) as page:
        places = {"vlm": str(whole(settings, "vlm")), "tmp": str(next((folder / "tmp").iterdir()))}
        for path in TRAVERSALS:
            asked = path.format(**places)
            status, text = page.request("GET", asked)
            demand(400 <= status < 500, f"{asked}: {status}, {text[:60]!r}")
            demand(b"root:" not in text, f"{asked} is served")
            missing = page.request("GET", asked.replace("passwd", "missing").replace("config", "missing"))
            demand((status, text) == missing, f"{asked} is not answered as a file that is not there")
    return f"{len(TRAVERSALS)} of {len(TRAVERSALS)} refused"


def strangers(settings: Sweep, folder: Path) -> str:
    with served(settings, folder) as page:
        for headers in STRANGERS:
            for path in ("/", "/config"):
                status, _ = page.request("GET", path, headers=headers)
                demand(status in (400, 403), f"{headers} at {path}: {status}")
            status, _ = page.request("POST", "/gradio_api/queue/join", b"{}", headers)
            demand(status in (400, 403), f"a question with {headers}: {status}")
        demand(page.request("GET", "/")[0] == 200, "the page itself is refused")
    return f"{len(STRANGERS)} kinds refused"
