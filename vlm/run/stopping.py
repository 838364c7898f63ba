"""Ends a run before its last step: when it is told to stop, or when its gradients stay unusable."""

import signal
import sys
from typing import NoReturn

from tqdm import tqdm

from vlm.distributed import all_items, is_main
from vlm.errors import UserError
from vlm.run.signals import WORDS

PATIENCE = 5  # steps in a row without a finite gradient before a run gives up


def leave(step: int, bar: tqdm, number: int | None) -> NoReturn:
    """End every process of the run with the same code, once the checkpoint of `step` is saved; collective.

    number: the signal that told this process to stop, None if another one was told. Exit code: 143 after SIGTERM, 130
    after Ctrl-C, 129 after SIGHUP.
    """
    numbers = [told for told in all_items([number]) if told is not None]
    first = numbers[0] if numbers else signal.SIGTERM
    bar.close()
    if is_main():
        print(f"{WORDS[first]}: step {step} is saved, the same command goes on from there", file=sys.stderr)
    sys.exit(128 + first)


class Patience:
    """Counts the steps in a row that moved nothing, because their gradient was not finite."""

    def __init__(self, remedy: str, failures: int = 0):
        """remedy: what the user may try, such as "lower --lr". failures: those up to the step that a run resumes at."""
        self.failures, self.remedy = failures, remedy

    def count(self, skipped: bool) -> None:
        self.failures = self.failures + 1 if skipped else 0

    def check(self, step: int) -> None:
        """Raise `UserError` if nothing has moved for `PATIENCE` steps; call it once the record of `step` is on disk."""
        if self.failures >= PATIENCE:
            raise UserError(f"no finite gradient for {PATIENCE} steps up to step {step}: {self.remedy}")
