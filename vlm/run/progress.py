"""Progress with rate and ETA."""

import sys
from typing import Any

from tqdm import tqdm


def progress(total: int, label: str, unit: str, initial: int = 0, show: bool = True) -> tqdm:
    """A tqdm bar with rate and ETA: redrawn twice a second on a terminal, one line every ten seconds in a log file."""
    if sys.stderr.isatty():
        style: dict[str, Any] = {"mininterval": 0.5, "dynamic_ncols": True, "ascii": False}
    else:
        style = {"mininterval": 10, "ncols": 120, "ascii": True}
    return tqdm(total=total, initial=initial, desc=label, unit=unit, disable=not show, smoothing=0.1, **style)
