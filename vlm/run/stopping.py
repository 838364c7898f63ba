"""When a run ends before its last step: it is told to stop, or its gradients stay unusable."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from vlm.distributed import is_main
from vlm.errors import UserError

TERMINATED = 128 + signal.SIGTERM
PATIENCE = 5  # steps in a row without a finite gradient before a run gives up


@contextmanager
def termination() -> Iterator[list]:
    """A list that is no longer empty once SIGTERM has come: the loop then saves and leaves."""
    signals: list = []
    before = signal.signal(signal.SIGTERM, lambda *_: signals.append(True))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(step: int, bar: tqdm) -> NoReturn:
    """End the process as SIGTERM asked; the checkpoint of `step` is there."""
    bar.close()
    if is_main():
        print(f"terminated: step {step} is saved, the same command goes on from there", file=sys.stderr)
    sys.exit(TERMINATED)


class Patience:
    """Counts the steps in a row that moved nothing because their gradient was not finite."""

    def __init__(self, remedy: str):
        """remedy: what the user may try, such as "lower --lr"."""
        self.failures, self.remedy = 0, remedy

    def count(self, skipped: bool) -> None:
        """Count one step."""
        self.failures = self.failures + 1 if skipped else 0

    def check(self, step: int) -> None:
        """Judge, once the record of `step` is written.

        Raises:
            UserError: nothing has moved for `PATIENCE` steps.
        """
        if self.failures >= PATIENCE:
            raise UserError(f"no finite gradient for {PATIENCE} steps up to step {step}: {self.remedy}")
