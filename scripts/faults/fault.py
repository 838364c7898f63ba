"""What a fault is, and what every kind of fault is given."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from vlm.run.settings import setting


class Failed(AssertionError):
    """What must not happen after a fault has happened; the message says it in one line."""


@dataclass(frozen=True)
class Fault:
    """One row of the table. strike: makes the fault in an empty folder -> its outcome in a few words.

    Raises: Failed if the fault was not survived.
    """

    name: str
    seed: int
    strike: Callable[[Path], str]


@dataclass(frozen=True)
class Sweep:
    """Flags of the sweep."""

    only: tuple[str, ...] = setting((), help="kinds, or words of a fault's name; the others are left out")
    kills: int = setting(20, help="seeded kill -9 of a rank, of all, of launch.py, of deepspeed", least=1)
    mutations: int = setting(200, help="of each folder and file that is loaded", least=1)
    first: bool = setting(False, help="only the first seed of every fault")
    keep: str | None = setting(None, help="folder in which what failed is left [it is deleted]")

    def seeds(self, count: int) -> Sequence[int]:
        """0, 1, ... of `count` seeds, with --first 0 alone."""
        return range(1 if self.first else count)

    @cached_property
    def _ends(self) -> ExitStack:
        return ExitStack()

    @cached_property
    def shared(self) -> Path:
        """A folder for what many faults start from; it ends with the sweep."""
        folder = Path(tempfile.mkdtemp(prefix="faults-shared-"))
        self.at_end(partial(shutil.rmtree, folder, ignore_errors=True))
        return folder

    def at_end(self, call: Callable[[], object]) -> None:
        """Call it when the sweep ends."""
        self._ends.callback(call)

    def end(self) -> None:
        self._ends.close()


def demand(holds: bool, otherwise: str) -> None:
    """Raise `Failed` with the words `otherwise` unless it holds."""
    if not holds:
        raise Failed(otherwise)
