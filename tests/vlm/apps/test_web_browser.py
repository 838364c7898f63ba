"""`vlm web` in a real browser. Needs Gradio, playwright and a Chromium."""

import importlib.util
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from tiny import pictures

import vlm
from vlm.apps.settings import WebSettings
from vlm.errors import UserError

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
    """Stands in for a VLM: says 600 words once it may begin, and knows when it was stopped."""

    def __init__(self, word_pause: float):
        self.word_pause = word_pause
        self.may_begin, self.stopped = threading.Event(), threading.Event()
        self.may_begin.set()
        self.asked: list[tuple[str, list]] = []  # questions and their histories
        self.prompts = SimpleNamespace(allows=bool)

    def fitting(self, image: Any, question: str, limit: int, history: list, short: bool) -> list:
        return history

    def stream(self, image: Any, question: str, limit: int, history: list, short: bool) -> Iterator[str]:
        self.stopped.clear()
        self.asked.append((question, history))
        try:
            assert self.may_begin.wait(60)
            for number in range(600):
                time.sleep(self.word_pause)
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


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
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
    tab.get_by_text("error: the prompt is too long").wait_for()
    asked = tab.get_by_role("textbox", name="Question")
    until(lambda: asked.input_value() == "x" * 5000)  # to be made shorter
    tab.close()


@contextmanager
def served(model: Any, folder: Path) -> Iterator[str]:
    """The address of a page with a stand-in for a VLM."""
    from vlm.apps import web

    settings = WebSettings("vlm", port=0)
    with web._listening(settings) as listening:
        app, _ = web._application(model, settings, [], folder)
        server = uvicorn_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


def growing(tab: Any) -> None:
    """Wait until the answer has grown a little."""
    seen = set()
    until(lambda: seen.add(tuple(said(tab))) or len(seen) > 4)


def press(tab: Any, button: str) -> None:
    tab.get_by_role("button", name=button, exact=True).last.click()


def settles(check: Callable[[], Any], seconds: float = 1) -> None:
    """Wait until `check` has been true for so long. Before that, words already on their way may come."""
    since = time.monotonic()

    def has_been() -> bool:
        nonlocal since
        if not check():
            since = time.monotonic()
        return time.monotonic() - since > seconds

    until(has_been)


@pytest.mark.parametrize("how", ["the button", "closing the tab"])
def test_a_generation_ends_early(browser, tmp_path, how):
    model = Slow(0.1)
    with served(model, tmp_path) as address:
        tab = browser.new_page()
        tab.goto(address)
        ask(tab, "Why?")
        growing(tab)
        assert not model.stopped.is_set()
        if how == "the button":
            press(tab, "Stop")
        else:
            tab.close()
        assert model.stopped.wait(20)


@pytest.mark.parametrize("how", ["Clear", "the bin", "another picture", "no picture"])
def test_an_answer_that_is_cleared_away_does_not_come_back(browser, tmp_path, monkeypatch, how):
    from vlm.apps import web_page

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(web_page, "seen", Mock(side_effect=UserError("a stand-in sees nothing")))
    model = Slow(0.02)
    pictures.noise(30, 30).save(tmp_path / "a.png")
    with served(model, tmp_path / "uploads") as address:
        tab, other = browser.new_page(), browser.new_page()
        for each in (tab, other):
            each.goto(address)
        chosen = tab.locator("input[type=file]").first
        remove = tab.locator(".picture").get_by_role("button", name="Remove Image")
        if how == "no picture":
            chosen.set_input_files(tmp_path / "a.png")
            tab.get_by_text("a stand-in sees nothing").first.wait_for()
        ask(tab, "Why?")
        growing(tab)
        if how == "Clear":
            press(tab, "Clear")
        elif how == "the bin":  # the conversation's own
            tab.get_by_role("button", name="Clear", exact=True).first.click()
        elif how == "another picture":
            chosen.set_input_files(tmp_path / "a.png")
        else:
            remove.click()
        settles(lambda: said(tab) == [])
        assert model.stopped.wait(20)
        ask(other, "Where?")
        growing(other)
        press(tab, "Clear")  # which is nothing to the other tab
        growing(other)
        press(other, "Stop")
        ask(tab, "How?")
        growing(tab)
        assert model.asked == [("Why?", []), ("Where?", []), ("How?", [])]
        for each in (tab, other):
            each.close()


def test_a_question_that_is_sent_too_early_or_stopped_stays_in_the_box(browser, tmp_path):
    model = Slow(0.1)
    model.may_begin.clear()
    with served(model, tmp_path) as address:
        tab = browser.new_page()
        tab.goto(address)
        box = tab.get_by_role("textbox", name="Question")
        ask(tab, "Why?")
        until(lambda: said(tab) == ["Why?"])
        press(tab, "Stop")  # before the first word
        until(lambda: box.input_value() == "Why?")
        model.may_begin.set()
        until(lambda: said(tab) == [])
        press(tab, "Ask")
        growing(tab)
        ask(tab, "How?")
        tab.get_by_text("Wait for the answer, or stop it.").wait_for()
        growing(tab)
        assert box.input_value() == "How?"
        press(tab, "Stop")
        until(model.stopped.is_set)
        press(tab, "Ask")
        until(lambda: len(model.asked) == 3)
        question, history = model.asked[-1]
        assert (question, box.input_value()) == ("How?", "")
        assert [asked for asked, _ in history] == ["Why?"] and history[0][1].startswith("word0 word1 ")
        tab.close()
