"""Progress with rate and ETA."""

import sys

from tqdm import tqdm


def progress(total: int, label: str, unit: str, initial: int = 0, show: bool = True) -> tqdm:
    """A tqdm bar with rate and ETA: redrawn twice a second on a terminal, one line every ten seconds in a log file."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=unit,
        disable=not show,
        mininterval=0.5 if terminal else 10,
        dynamic_ncols=terminal,
        ncols=None if terminal else 120,
        ascii=not terminal,
        smoothing=0.1,
    )
