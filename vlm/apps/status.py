"""What a command is busy with, on a terminal's stderr while it takes long."""

import sys
import threading
import time
import weakref
from types import TracebackType

DELAY = 0.4  # seconds before anything is shown: most waits are shorter
TICK = 0.25
SPINNER = "|/-\\"


class Status:
    """Shows `text` and the seconds while its block runs, and takes them away again; nothing if stderr is no terminal.

    Without a text it is a turning bar of one character, which can also stand behind text of another stream.
    """

    def __init__(self, text: str = ""):
        self._done = threading.Event()
        # The thread does not hold this object. Ctrl-C may come as the block is entered or left, before `__exit__` does
        # anything: then it stops when the object is gone.
        self._thread = threading.Thread(target=_show, args=(text, self._done), daemon=True)
        weakref.finalize(self, self._done.set)

    def __enter__(self) -> "Status":
        self._start = time.monotonic()
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def seconds(self) -> float:
        """Since the block began."""
        return time.monotonic() - self._start


def _show(text: str, done: threading.Event) -> None:
    start, turn = time.monotonic(), 0
    if done.wait(DELAY):
        return
    while True:
        print(_frame(text, turn, time.monotonic() - start), end="", file=sys.stderr, flush=True)
        turn += 1
        if done.wait(TICK):
            break
    print("\r\033[K" if text else " \b", end="", file=sys.stderr, flush=True)


def _frame(text: str, turn: int, seconds: float) -> str:
    if text:
        return f"\r{text} ... {seconds:.0f} s"
    return SPINNER[turn % len(SPINNER)] + "\b"
