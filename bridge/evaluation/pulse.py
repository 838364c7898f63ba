"""Which process of an evaluation hangs: each raises a number in the store when it has answered, and while it waits."""

from typing import Any


class Pulse:
    """The numbers of all processes, of which this one raises its own.

    Time is counted in seconds that this process has waited: a job that is suspended, and goes on, has lost none. The
    store is torchrun's. Without torchrun it is rank 0's: if that process is stopped as a whole, nobody can tell.
    """

    def __init__(self, store: Any, rank: int, size: int):
        self._store, self._rank = store, rank
        self._known = [-1] * size
        self._still = [0.0] * size  # seconds since each number has risen

    def beat(self) -> None:
        self._store.add(f"pulse/{self._rank}", 1)

    def late(self, waited: float, limit: float) -> list[int]:
        """Beat, and return the processes that have not done so for `limit` seconds. waited: since the last call."""
        try:
            self.beat()
            found = [self._store.add(f"pulse/{other}", 0) for other in range(len(self._known))]
        except RuntimeError:  # the process that holds the store is gone: gloo tells
            return []
        for other, number in enumerate(found):
            self._still[other] = self._still[other] + waited if number == self._known[other] else 0.0
        self._known = found
        return [other for other, seconds in enumerate(self._still) if seconds >= limit]

    def first_to_tell(self) -> bool:
        """Whether no other process has asked this before."""
        try:
            return self._store.add("hangs", 1) == 1
        except RuntimeError:  # the process that holds the store has ended, and has told
            return False
