"""What a check found: one line each."""

import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["OK", "warn", "FAIL"]
_COLOURS: dict[str, str] = {"OK": "\033[32m", "warn": "\033[33m", "FAIL": "\033[1;31m"}
# What libraries raise for files that are damaged, cut off or of another kind.
BROKEN = (
    ValueError, OSError, EOFError, RuntimeError, KeyError, TypeError, AttributeError, IndexError, tarfile.TarError,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """level: OK; warn, which is no reason to stop; or FAIL. text: what was found and, unless OK, what to do."""

    level: Level
    name: str
    text: str

    def line(self) -> str:
        """ "warn  shared memory: 64 MiB ..." """
        start, stop = (_COLOURS[self.level], "\033[0m") if coloured() else ("", "")
        return f"{start}{self.level:<4}{stop}  {self.name}: {' '.join(self.text.split())}"


Findings = Iterator[Finding]


def coloured() -> bool:
    """Whether stdout is a terminal that may show colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def judged(good: bool, name: str, text: str, advice: str, otherwise: Level = "warn") -> Finding:
    """OK if `good`; else `otherwise`, with the advice behind the text."""
    return Finding("OK", name, text) if good else Finding(otherwise, name, f"{text}: {advice}")


def attempt(name: str, check: Callable[[], Findings]) -> Findings:
    """The findings of a check; an error in it is a FAIL with its message, after which the next check goes on."""
    try:
        yield from check()
    except BROKEN as error:
        yield Finding("FAIL", name, str(error) or type(error).__name__)
