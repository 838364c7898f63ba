"""`vlm web` as a browser meets it, and as other programs try it. Needs Gradio; the page itself a Chromium."""

import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import ROOT
from tiny import pictures

import vlm
from vlm.apps.settings import WebSettings
from vlm.apps.web_examples import examples, find_world
from vlm.errors import UserError
from vlm.files import write_json

GRADIO = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="pip install -e '.[web]': no gradio")
PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(
    not (PLAYWRIGHT and CHROMIUM), reason="no browser: pip install playwright, apt-get install chromium"
)


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "vlm.cli", "web", *map(str, arguments)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A world of three pictures with two questions each."""
    root = tmp_path_factory.mktemp("web") / "world"
    (root / "gqa/images").mkdir(parents=True)
    questions = {}
    for number in range(3):
        pictures.noise(60, 40, number).save(root / f"gqa/images/{number}.jpg")
        for kind in "ab":
            questions[f"{number}{kind}"] = {"imageId": str(number), "question": f"{kind}{number}?"}
    write_json(root / "gqa/testdev_balanced_questions.json", questions)
    return root


@pytest.fixture(scope="module")
def page(tiny_vlm, world) -> Iterator[str]:
    """The address of a served page; afterwards the server is stopped as a user does it."""
    process = subprocess.Popen(
        command(tiny_vlm, "--port", 0, "--world", world, "--max-upload", 0.1, "--max-new-tokens", 24),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"the page is at (http://127\.0\.0\.1:\d+) \(Ctrl-C stops\)", line)
    assert found, line + process.stdout.read()
    yield found[1]
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert (process.wait(30), rest) == (130, "interrupted\n")


def request(url: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    asked = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def upload(url: str, name: str, content: bytes) -> tuple[int, str]:
    head = f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--X--\r\n"
    return request(f"{url}/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=X")


def png(side: int) -> bytes:
    return pictures.encoded(pictures.noise(side, side))


@GRADIO
def test_only_this_page_under_its_own_name_is_answered(page):
    port = page.rpartition(":")[2]
    assert request(page)[0] == 200
    assert request(page, Host=f"localhost:{port}")[0] == 200
    assert request(page, Host="localhost:9000", Origin="http://localhost:9000")[0] == 200  # as through ssh -L
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "a@127.0.0.1", "[", ""):
        assert request(page, Host=host)[0] in (400, 403), host
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", f"http://localhost:{port}"):
        assert request(f"{page}/config", Origin=origin)[0] == 403, origin
    assert request(f"{page}/config", Sec_Fetch_Site="cross-site")[0] == 403
    assert request(page, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link to the page


@GRADIO
def test_nothing_else_of_gradio_is_reached(page):
    for path in ("proxy=http://evil.example/", "file=http://evil.example/", "file=/etc/passwd", "openapi.json",
                 "file=" + str(ROOT / "README.md"), "runs", "../monitoring"):  # fmt: skip
        assert request(f"{page}/gradio_api/{path}")[0] in (403, 404), path
    for path in ("call/ask", "component_server", "process_recording", "vibe-edit", "login"):
        assert request(f"{page}/gradio_api/{path}", b"{}")[0] == 404, path


@GRADIO
def test_an_upload_is_a_picture_of_allowed_size(page):
    status, text = upload(page, "a.png", png(30))
    assert status == 200
    stored = Path(json.loads(text)[0])
    assert stored.read_bytes() == png(30)
    folder = stored.parents[1]
    before = sorted(folder.rglob("*"))
    assert upload(page, "a.png", bytes(200_000)) == (413, "too large: 0.1 MB are allowed")
    assert upload(page, "a.png", bytes(105_000)) == (413, "too large: 0.1 MB are allowed")
    assert upload(page, "a.html", png(30))[0] == 415
    assert upload(page, "a.png", b"<html>")[0] == 415
    assert upload(page, "a.png", png(30)[:-40])[0] == 415
    bmp = b"BM" + bytes(100)
    assert upload(page, "a.bmp", bmp)[0] == upload(page, "a.png", bmp)[0] == 415
    assert request(f"{page}/gradio_api/upload", b"x")[0] == 400
    assert sorted(folder.rglob("*")) == before
    assert request(f"{page}/gradio_api/queue/join", bytes(1_100_000))[0] == 413


@GRADIO
def test_no_event_takes_a_file_that_was_not_uploaded(page, world):
    own = str(world / "gqa/images/0.jpg")
    for path in ("http://evil.example/a.png", "https://127.0.0.1/a.png", "/etc/hostname", own, "", "a\0b", 7):
        for url in (None, "http://evil.example/a.png", "data:image/png;base64,AAAA"):
            file = {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}
            event = json.dumps({"data": [file], "fn_index": 0, "session_hash": "s"}).encode()
            for name in ("queue/join", "run/predict"):
                status, text = request(f"{page}/gradio_api/{name}", event, Content_Type="application/json")
                assert status == 403 and text.startswith("a picture is sent as a file"), (name, file)
    assert request(f"{page}/gradio_api/queue/join", b"{")[0] == 400


@GRADIO
def test_what_a_user_gets_wrong_is_one_line(tiny_vlm, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, said in (
            ((tiny_vlm, "--port", port), f"cannot listen at --host 127.0.0.1 --port {port} (Address already in use)"),
            ((tmp_path,), f"{tmp_path} is not a VLM"),
        ):
            done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_missing_extra_is_one_line(monkeypatch, tiny_vlm):
    from vlm.apps import web

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the page needs Gradio: pip install 'levlm\[web\]'"):
        web.serve(WebSettings(str(tiny_vlm)))


def test_any_other_address_is_told_what_it_means(capsys):
    from vlm.apps import web

    for host in ("127.0.0.1", "::1", "localhost"):
        web._tell_if_open(WebSettings("vlm", host=host))
    assert capsys.readouterr().err == ""
    web._tell_if_open(WebSettings("vlm", host="0.0.0.0"))
    assert "--host 0.0.0.0 opens the page to every machine that can reach this one, without a password" in (
        capsys.readouterr().err
    )


def test_examples_are_different_pictures_of_the_world_beside_the_run(world):
    found = find_world(str(world.parent / "bridge/pretrained/vlm"), None)
    assert found == world
    images = world / "gqa/images"
    assert examples(world, 2) == [(str(images / "0.jpg"), "a0?"), (str(images / "1.jpg"), "b1?")]
    with pytest.raises(UserError, match=r"holds no gqa/testdev_balanced_questions.json"):
        find_world("vlm", str(world.parent))


def shown(text: str) -> str:
    """As a browser gives back a text of several lines and spaces."""
    return " ".join(text.split())


def uvicorn_server(app: Any) -> Any:
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", ws="none", timeout_graceful_shutdown=1))


class Slow:
    """Stands in for a VLM: says a word each tenth of a second, for a minute, and knows when it was stopped."""

    def __init__(self):
        self.stopped = threading.Event()
        self.prompts = SimpleNamespace(allows=lambda text: True)
        self.language_model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=1000))

    def prompt_ids(self, *_, **__) -> list[int]:
        return [0]

    def stream(self, *_) -> Iterator[str]:
        try:
            for number in range(600):
                time.sleep(0.1)
                yield f"word{number} "
        finally:
            self.stopped.set()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def said(tab: Any) -> list[str]:
    """The conversation as it is shown."""
    return [shown(text) for text in tab.locator(".bot.message, .user.message").all_inner_texts()]


def ask(tab: Any, question: str) -> None:
    tab.get_by_label("Question").fill(question)
    tab.get_by_role("button", name="Ask").click()


def until(check: Callable[[], Any], seconds: float = 30) -> Any:
    """What `check` returns once it is true."""
    end = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
    return result


@GRADIO
@BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor_shows_a_picture_and_talks_about_it(page, browser, tiny_vlm, tmp_path, scheme):
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    asked: list[str] = []
    context.on("request", lambda each: asked.append(each.url))
    tab.goto(page)
    path = tmp_path / "my picture.png"
    path.write_bytes(png(60))
    tab.locator("input[type=file]").first.set_input_files(path)
    tab.get_by_text("As the model sees it: 24 x 24 pixels").wait_for()
    tab.get_by_text("Its patch tokens, 4 x 4").wait_for()
    model = vlm.load(tiny_vlm)
    ask(tab, "What is this?")
    first = model.answer(path, "What is this?", 24)
    until(lambda: said(tab) == ["What is this?", shown(first)])
    ask(tab, "And now?")
    second = model.answer(path, "And now?", 24, history=[("What is this?", first)])
    until(lambda: said(tab) == ["What is this?", shown(first), "And now?", shown(second)])
    tab.get_by_role("button", name="Clear", exact=True).last.click()
    until(lambda: said(tab) == [])
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light"), dark
    tab.screenshot(path=tmp_path / f"{scheme}.png")
    tab.locator("#examples tbody tr").nth(1).click()  # its question, and its picture
    until(lambda: tab.get_by_label("Question").input_value() == "b1?")
    assert asked and all(url.startswith((page + "/", "data:", "blob:")) for url in asked), asked
    context.close()


@GRADIO
@BROWSER
def test_a_picture_that_cannot_be_used_is_told(page, browser, tmp_path):
    tab = browser.new_page()
    tab.goto(page)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html>")
    tab.locator("input[type=file]").first.set_input_files(bad)
    tab.get_by_text("not an image: no JPEG/PNG/WEBP/GIF file").first.wait_for()
    ask(tab, "x" * 5000)
    tab.get_by_text("error: the question is too long").wait_for()
    tab.close()


@GRADIO
@BROWSER
@pytest.mark.parametrize("how", ["the button", "closing the tab"])
def test_a_generation_ends_early(browser, tmp_path, how):
    from vlm.apps import web

    model, settings = Slow(), WebSettings("vlm", port=0)
    with web._listening(settings) as listening:
        app, _ = web._application(model, settings, [], tmp_path)
        server = uvicorn_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            tab = browser.new_page()
            tab.goto(f"http://127.0.0.1:{listening.getsockname()[1]}")
            ask(tab, "Why?")
            seen = set()
            until(lambda: seen.add(tuple(said(tab))) or len(seen) > 4)  # the answer grows
            assert not model.stopped.is_set()
            if how == "the button":
                tab.get_by_role("button", name="Stop").click()
            else:
                tab.close()
            assert model.stopped.wait(20)
        finally:
            server.should_exit = True
            thread.join(30)
