"""Ends a run before its last step: when it is told to stop, or when its gradients stay unusable."""

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
    """Give a list that is no longer empty once SIGTERM has come, so that the loop can save and leave."""
    signals: list = []
    before = signal.signal(signal.SIGTERM, lambda *_: signals.append(True))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(step: int, bar: tqdm) -> NoReturn:
    """End the process with 143, as SIGTERM asked, once the checkpoint of `step` is saved."""
    bar.close()
    if is_main():
        print(f"terminated: step {step} is saved, the same command goes on from there", file=sys.stderr)
    sys.exit(TERMINATED)


class Patience:
    """Counts the steps in a row that moved nothing, because their gradient was not finite."""

    def __init__(self, remedy: str):
        """remedy: what the user may try, such as "lower --lr"."""
        self.failures, self.remedy = 0, remedy

    def count(self, skipped: bool) -> None:
        self.failures = self.failures + 1 if skipped else 0

    def check(self, step: int) -> None:
        """Raise `UserError` if nothing has moved for `PATIENCE` steps; call it once the record of `step` is on disk."""
        if self.failures >= PATIENCE:
            raise UserError(f"no finite gradient for {PATIENCE} steps up to step {step}: {self.remedy}")
