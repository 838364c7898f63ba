"""Several processes that answer one benchmark's questions together: torchrun, `accelerate launch`, srun with RANK set.

Only Python objects go between them, over gloo: no GPU waits for another. An error of one process stops all of them. One
that has answered its share waits for the others, for hours if need be, but not for one that hangs: each has a pulse.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from bridge.evaluation.pulse import Pulse
from bridge.evaluation.settings import EvaluateConfig
from vlm.errors import UserError, user_message

Result = TypeVar("Result")
WAIT = timedelta(days=7)  # for the slowest process; one that has died is noticed at once, one that hangs by its pulse
BEAT = 15.0  # seconds between two beats of a process that waits
LAST_WORDS = 10.0  # seconds that rank 0 gives the others to leave


class Team:
    """The processes of this evaluation: by itself one that is alone, see `joined_team` for more.

    rank 0 reads and writes what all share, and is the only one that prints.
    """

    rank, size = 0, 1
    minutes = EvaluateConfig.timeout  # that a process may neither answer nor wait
    local_rank: int | None = None  # among the processes of one machine

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def all(self, function: Callable[[], Result]) -> Result:
        """Call `function` on every process; collective.

        Raises: if it is a UserError on any of them, the first such on rank 0, SystemExit(2) on the others.
        """
        return function()

    def main(self, function: Callable[[], Result]) -> Result:
        """Call `function` on rank 0 and return its result on every process; raises as `all`."""
        return function()

    def gather(self, value: Any) -> list:
        """Every process's picklable value in rank order, on every process."""
        return [value]

    def failed(self) -> bool:
        """Whether another process has an error that it waits to tell: then stop work and go to where `all` ends."""
        return False

    def count(self, key: str, number: int) -> int:
        """Add `number` to the counter `key` -> the sum over all processes so far."""
        self._counts[key] += number
        return self._counts[key]


class _Several(Team):
    def __init__(self, store: Any, rank: int, size: int):
        self._store, self.rank, self.size = store, rank, size
        self.local_rank = int(os.environ.get("LOCAL_RANK", rank))
        self._pulse = Pulse(store, rank, size)
        self.hangs = False  # whether another process does

    def all(self, function: Callable[[], Result]) -> Result:
        result: Any = None
        problem = left = None
        try:
            result = function()
        except (UserError, OSError) as error:
            problem = user_message(error)
            if problem is None:
                raise
            self._store.set("failed", "yes")
        except SystemExit as error:  # argparse has printed what it had to say
            left = error.code
        problems = [found for found in self.gather((problem, left)) if found != (None, None)]
        if not problems:
            return result
        text = next((text for text, _ in problems if text is not None), None)
        if text is not None:
            raise UserError(text) if self.rank == 0 else SystemExit(2)
        raise SystemExit(problems[0][1])

    def main(self, function: Callable[[], Result]) -> Result:
        value = self.all(function if self.rank == 0 else lambda: None)
        return self.gather(value if self.rank == 0 else None)[0]

    def gather(self, value: Any) -> list:
        import torch.distributed as dist

        self._meet()
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def _meet(self) -> None:
        """Wait until every process is here. Raises: SystemExit(1) if one of them has no pulse, which is told once."""
        import torch
        import torch.distributed as dist

        seconds = 60 * self.minutes
        every = min(BEAT, seconds / 4)
        self._pulse.beat()
        here: Any = dist.all_reduce(torch.zeros(1), async_op=True)
        slept, pause = 0.0, 0.001
        while not here.is_completed():
            time.sleep(pause)
            slept, pause = slept + pause, min(2 * pause, 0.1, every)
            if slept < every:
                continue
            if late := self._pulse.late(slept, seconds):
                self.hangs = True
                if self._pulse.first_to_tell():
                    words = f"rank {self.rank} waited {self.minutes:g} minutes for rank {', '.join(map(str, late))}"
                    kept = "the answers so far are kept, the same command goes on from there"
                    print(f"error: {words}, which hangs or is too slow: {kept}; see --timeout", file=sys.stderr)
                raise SystemExit(1)
            slept = 0.0
        here.wait()

    def failed(self) -> bool:
        import torch.distributed as dist

        try:
            return self._store.check(["failed"])
        except (dist.DistError, RuntimeError):  # the process that holds the store is gone
            raise SystemExit(2) from None

    def count(self, key: str, number: int) -> int:
        self._pulse.beat()
        return self._store.add(f"count/{key}", number)

    def leave(self) -> None:
        """Leave when all others are about to. Rank 0, which may hold the store, leaves last: a process that were still
        in a collective or read from the store would die of a closed connection.
        """
        self.gather(None)
        gone = self._store.add("gone", 1)
        until = time.monotonic() + LAST_WORDS
        while self.rank == 0 and gone < self.size and time.monotonic() < until:
            time.sleep(0.01)
            gone = self._store.add("gone", 0)


@contextmanager
def joined_team() -> Iterator[Team]:
    """The processes that a launcher has started, or one alone. Nothing heavy is imported for one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://", timeout=WAIT))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun --max-restarts keeps its store
    store = dist.PrefixStore(f"evaluation/{attempt}", store)
    dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=WAIT)
    team = _Several(store, rank, size)
    try:
        yield team
        team.leave()
    finally:  # also after an error: gloo's threads that outlive the interpreter abort the process
        if team.hangs:  # a thread of gloo waits for the process that hangs, and a usual end would wait for it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        dist.destroy_process_group()


def share(sizes: Sequence[int], rank: int, ranks: int) -> list[int]:
    """Which of the pieces of work, given by their sizes, are `rank`'s: each goes to whoever has least so far.

    share([4, 3, 1, 4], 0, 2) -> [0, 3]; share([4, 3, 1, 4], 1, 2) -> [1, 2]     (4 + 4 and 3 + 1)
    """
    loads, own = [0] * ranks, []
    for number, size in enumerate(sizes):
        least = loads.index(min(loads))
        loads[least] += size
        if least == rank:
            own.append(number)
    return own
