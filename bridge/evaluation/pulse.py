"""Which process of an evaluation hangs: each raises a number in the store when it has answered, and while it waits."""

from typing import Any

GONE = 10.0  # seconds without the store, in which gloo mostly tells that its process has ended


class Pulse:
    """The numbers of all processes, of which this one raises its own.

    Time is counted in seconds that this process has waited: a job that is suspended, and goes on, has lost none. The
    store is torchrun's. Without torchrun it is rank 0's: if that process is stopped as a whole, nobody can tell.
    """

    def __init__(self, store: Any, rank: int, size: int):
        self._store, self._rank = store, rank
        self._known = [-1] * size
        self._still = [0.0] * size  # seconds since each number has risen
        self._without_store = 0.0  # seconds

    def beat(self) -> None:
        self._store.add(f"pulse/{self._rank}", 1)

    def late(self, waited: float, limit: float) -> list[int]:
        """Beat, and return the processes that have not done so for `limit` seconds. waited: since the last call.

        Without the store it is all the others: who held it has ended, and gloo does not say so to a process that waits
        for another one.
        """
        try:
            self.beat()
            found = [self._store.add(f"pulse/{other}", 0) for other in range(len(self._known))]
        except RuntimeError:
            self._without_store += waited
            others = [other for other in range(len(self._known)) if other != self._rank]
            return others if self._without_store >= GONE else []
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
