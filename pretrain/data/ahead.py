"""Reading ahead from a store on threads: requests travel while images are decoded and steps computed."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol

THREADS = 16  # requests of one process at a time
# Two pieces of a shard are one request if no more than HOLE bytes lie between them: those cost less than a request.
HOLE = 16 * 2**10
LARGEST_REQUEST = 8 * 2**20
Piece = tuple[int, int, int]  # shard, start in bytes, size


class Reader(Protocol):
    """An open shard."""

    def read(self, start: int, length: int) -> bytes: ...


class DaemonThreads:
    """A pool of threads that never keeps a process from ending, however slow the store that they wait for is."""

    def __init__(self, count: int):
        self.count, self._tasks = count, SimpleQueue()
        for _ in range(count):
            Thread(target=self._work, daemon=True).start()

    def __enter__(self) -> "DaemonThreads":
        return self

    def __exit__(self, *error: object) -> None:
        """Let the threads end, each after the task that it is at; the tasks behind are forgotten."""
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self.count):
            self._tasks.put(None)

    def submit(self, task: Callable[[], Any]) -> Future:
        future = Future()
        self._tasks.put((future, task))
        return future

    def map(self, function: Callable, items: Iterable) -> Iterator:
        """The results in the order of the items; the first error is raised."""
        futures = [self.submit(partial(function, item)) for item in items]
        return (future.result() for future in futures)

    def _work(self) -> None:
        while (taken := self._tasks.get()) is not None:
            future, task = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = task()
            except BaseException as error:  # it belongs to who waits for the result
                future.set_exception(error)
            else:
                future.set_result(result)


class ReadAhead:
    """Pieces of shards, from what was requested ahead or, if it was not, at once."""

    def __init__(self, open_shard: Callable[[int], Reader]):
        """open_shard: called once a shard and process."""
        self.open_shard = open_shard
        self._start()

    def read(self, shard: int, start: int, size: int) -> bytes:
        """`size` bytes of a shard. Raises what `open_shard` and its readers raise."""
        self._here()
        request, first = self._ahead.pop((shard, start, size), (None, start))
        if request is None:
            return self._fetch(shard, start, size)
        return request.result()[start - first : start - first + size]

    def prefetch(self, *steps: Iterable[Piece]) -> None:
        """Request the pieces of the coming steps, the soonest step first; what else was requested is dropped."""
        self._here()
        steps = tuple(list(step) for step in steps)
        wanted = {piece for step in steps for piece in step}
        dropped = [self._ahead.pop(piece)[0] for piece in [*self._ahead] if piece not in wanted]
        kept = {id(request) for request, _ in self._ahead.values()}
        for request in dropped:
            if id(request) not in kept:
                request.cancel()
        if self._threads is None:
            self._threads = DaemonThreads(THREADS)
        for step in steps:
            for shard, start, stop, pieces in merged(piece for piece in step if piece not in self._ahead):
                request = self._threads.submit(partial(self._fetch, shard, start, stop - start))
                for piece in pieces:
                    self._ahead[piece] = request, start

    def _fetch(self, shard: int, start: int, size: int) -> bytes:
        with self._locks.setdefault(shard, Lock()):  # else 16 threads would open one shard at the same time
            if shard not in self._open:
                self._open[shard] = self.open_shard(shard)
        return self._open[shard].read(start, size)

    def _here(self) -> None:
        """A forked process has no threads: it begins anew."""
        if self._process != os.getpid():
            self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._threads: DaemonThreads | None = None  # from the first request on
        self._ahead: dict[Piece, tuple[Future, int]] = {}  # with the place where the request starts
        self._open: dict[int, Reader] = {}
        self._locks: dict[int, Lock] = {}


def merged(pieces: Iterable[Piece]) -> Iterator[tuple[int, int, int, list[Piece]]]:
    """Put pieces that lie close together into one request: its shard, start and stop, and the pieces in it.

    [(0, 0, 10), (0, 12, 8), (1, 0, 5)] -> (0, 0, 20, [(0, 0, 10), (0, 12, 8)]), (1, 0, 5, [(1, 0, 5)])
    """
    together: list[Piece] = []
    shard = first = stop = 0
    for piece in sorted(pieces):
        near = together and piece[0] == shard and piece[1] <= stop + HOLE
        if not near or piece[1] + piece[2] - first > LARGEST_REQUEST:
            if together:
                yield shard, first, stop, together
            together, shard, first, stop = [], piece[0], piece[1], piece[1]
        together.append(piece)
        stop = max(stop, piece[1] + piece[2])
    if together:
        yield shard, first, stop, together
