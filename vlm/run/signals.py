"""Being told to stop: Ctrl-C, SIGTERM, a closed terminal (SIGHUP), or the death of the launcher.

    command (`stoppable`)          raises where it is: what is on the disk stays, one line, exit code 130, 143 or 129
    training loop (`deferred`)     goes on to the end of its step, saves, and leaves with the same codes

The second time, either leaves at once. A signal that is ignored, as SIGHUP is under nohup, stays ignored. Nothing here
waits for torch.
"""

import atexit
import io
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EIO, EPIPE
from types import FrameType

WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
# One Ctrl-C reaches a rank twice: the terminal signals the whole group, and a launcher passes on what it got. So under
# a launcher or SLURM, what comes within so many seconds of the first signal is still the first.
PASSED_ON = 2.0
_LAUNCHED = "RANK" in os.environ


class Stopped(BaseException):
    """Raised by SIGTERM and SIGHUP as KeyboardInterrupt is by Ctrl-C: no `except Exception` may keep it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _Told:
    """What this process was told so far."""

    depth = 0  # of `stoppable` in itself
    number: int | None = None  # the first signal
    time = 0.0
    deferred = False  # whether a training loop looks for it; else it is raised
    kept = ""  # what is on the disk, for the last line


_told = _Told()


def _handle(number: int, frame: FrameType | None = None) -> None:
    if _told.number is not None:
        if not _LAUNCHED or time.monotonic() - _told.time > PASSED_ON:
            os._exit(128 + number)
        return
    _told.number, _told.time = number, time.monotonic()
    if _told.deferred:
        if os.environ.get("RANK", "0") == "0":
            _write(f"\n{WORDS[number]}: this step is finished and saved first; once more leaves at once\n")
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Stopped(number)


def was_told() -> bool:
    """Whether this process was told to stop, and is about to."""
    return _told.number is not None


def _write(text: str) -> None:
    """To stderr, from a signal handler: past Python's buffers, which may be in use."""
    with suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


@contextmanager
def stoppable(deferred: bool = False) -> Iterator[Callable[[], int | None]]:
    """Obey SIGINT, SIGTERM and SIGHUP inside. Gives a function that tells which of them came first, None before.

    deferred: nothing is raised, the caller asks and leaves when it has saved. Threads other than the main one get no
    signals: there, nothing changes.
    """
    handlers = {}
    if _told.depth == 0:
        _told.number, _told.kept = None, ""
    outer, _told.deferred = _told.deferred, deferred
    _told.depth += 1
    try:
        if threading.current_thread() is threading.main_thread():
            obeyed = [number for number in WORDS if signal.getsignal(number) != signal.SIG_IGN]
            handlers = {number: signal.signal(number, _handle) for number in obeyed}
        yield lambda: _told.number
    finally:
        _told.deferred = outer
        _told.depth -= 1
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """If the command is stopped inside, its last line says `what`: that which it leaves on the disk."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        _told.kept = _told.kept or what
        raise


def last_words(stop: KeyboardInterrupt | Stopped) -> int:
    """Say in one line that the command was stopped, once for all of its processes -> its exit code."""
    number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
    if os.environ.get("RANK", "0") == "0":
        print(WORDS[number] + (f": {_told.kept}" if _told.kept else ""), file=sys.stderr, flush=True)
    atexit.register(_leave_quietly, 128 + number)  # the last to be registered, it is called first
    return 128 + number


def _leave_quietly(code: int) -> None:
    """While exit functions of libraries run, which takes a second or two, another signal ends the process at once."""
    for number in WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))


def end_with_parent(handler: signal.Handlers = signal.SIG_DFL) -> None:
    """In a worker process: end when the parent has ended. handler: of the signals to stop, by default they end it."""
    for number in WORDS:
        signal.signal(number, handler)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Outliving(io.FileIO):
    """A terminal or pipe that may go away while the process lives on: what nobody reads is then dropped.

    A closed terminal refuses with EIO, in a moment before SIGHUP has come. `tee` in `deepspeed ... | tee log` dies of
    the Ctrl-C after which a run still saves; other commands end there with a BrokenPipeError, as in `command | head`.
    """

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != EIO and not (error.errno == EPIPE and _told.deferred):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def outlive_readers() -> None:
    """Let stdout and stderr outlive the terminal or the pipe that they write to."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper or stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            continue
        stream.flush()
        raw = _Outliving(stream.fileno(), "wb", closefd=False)
        text = io.TextIOWrapper(
            raw if stream.write_through else io.BufferedWriter(raw),  # raw: python -u
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)
