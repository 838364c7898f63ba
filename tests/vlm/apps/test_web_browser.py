"""`vlm web` in a real browser. Needs Gradio, playwright and a Chromium."""

import importlib.util
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import pictures

import vlm
from vlm.apps.settings import WebSettings

GRADIO, PLAYWRIGHT = (importlib.util.find_spec(name) is not None for name in ("gradio", "playwright"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not (GRADIO and PLAYWRIGHT and CHROMIUM),
    reason="no gradio or no browser: pip install -e '.[web,dev]', apt-get install chromium",
)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor_shows_a_picture_and_talks_about_it(page, browser, tiny_vlm, tmp_path, scheme):
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    asked: list[str] = []
    context.on("request", lambda each: asked.append(each.url))
    tab.goto(page)
    path = tmp_path / "my picture.png"
    pictures.noise(60, 60).save(path)
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


def test_a_picture_that_cannot_be_used_is_told(page, browser, tmp_path):
    tab = browser.new_page()
    tab.goto(page)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html>")
    tab.locator("input[type=file]").first.set_input_files(bad)
    tab.get_by_text("not an image: no JPEG/PNG/WEBP/GIF file").first.wait_for()
    ask(tab, "x" * 5000)
    tab.get_by_text("error: the question is too long").wait_for()
    asked = tab.get_by_role("textbox", name="Question")
    until(lambda: asked.input_value() == "x" * 5000)  # to be made shorter
    tab.close()


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
