"""What a command is busy with, on a terminal's stderr while it takes long."""

import sys
import threading
import time
from types import TracebackType

DELAY = 0.4  # seconds before anything is shown: most waits are shorter
TICK = 0.25
SPINNER = "|/-\\"


class Status:
    """Shows `text` and the seconds while its block runs, and takes them away again; nothing if stderr is no terminal.

    Without a text it is a turning bar of one character, which can also stand behind text of another stream.
    """

    def __init__(self, text: str = ""):
        self.text = text
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True) if sys.stderr.isatty() else None

    def __enter__(self) -> "Status":
        self._start = time.monotonic()
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def seconds(self) -> float:
        """Since the block began."""
        return time.monotonic() - self._start

    def _show(self) -> None:
        if self._done.wait(DELAY):
            return
        turn = 0
        while True:
            print(self._frame(turn), end="", file=sys.stderr, flush=True)
            turn += 1
            if self._done.wait(TICK):
                break
        print("\r\033[K" if self.text else " \b", end="", file=sys.stderr, flush=True)

    def _frame(self, turn: int) -> str:
        if self.text:
            return f"\r{self.text} ... {self.seconds():.0f} s"
        return SPINNER[turn % len(SPINNER)] + "\b"
