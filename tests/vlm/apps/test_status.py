"""What a terminal is shown while a command is busy."""

import io
import threading

import pytest

from vlm.apps import status
from vlm.apps.status import Status


class Screen(io.StringIO):
    """A stderr that is a terminal, and tells when something is shown."""

    def __init__(self):
        super().__init__()
        self.shown = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        self.shown.set()
        return super().write(text)


def on_screen(monkeypatch) -> Screen:
    """Called in a test itself: between fixtures and tests pytest sets `sys.stderr`."""
    monkeypatch.setattr(status, "DELAY", 0)
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    return screen


@pytest.mark.parametrize(("text", "first", "last"), [("", "|\b", " \b"), ("reading", "\rreading ... 0 s", "\r\033[K")])
def test_it_is_shown_and_taken_away(monkeypatch, text, first, last):
    screen = on_screen(monkeypatch)
    with Status(text):
        assert screen.shown.wait(10)
    assert screen.getvalue().startswith(first) and screen.getvalue().endswith(last)


def test_a_block_that_is_never_left_ends_with_its_object(monkeypatch):
    """As if Ctrl-C came at the first instruction of `__exit__`."""
    screen = on_screen(monkeypatch)
    busy = Status()
    busy.__enter__()
    thread = busy._thread
    assert screen.shown.wait(10)
    del busy
    thread.join(10)
    assert not thread.is_alive() and screen.getvalue().endswith(" \b")
