"""Tables in Markdown, and the words of a gain in them."""

from collections.abc import Mapping, Sequence
from typing import Any

# Behind a row's name, if the model was shown something else than the images.
SEEN = {"captions": " (caption as text)", "other images": " (shuffled images)", "nothing": " (no image)"}


def ruled(cells: Sequence[Sequence[Any]], words: int = 1) -> list[str]:
    """Lines of a Markdown table; the first of `cells` is its head.

    words: how many columns, from the left, hold words; those behind them hold numbers, which are flush right.
    """
    head, *body = [[_escaped(cell) for cell in line] for line in cells]
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *body)]


def _escaped(cell: Any) -> str:
    """A name or an answer may hold what would end the cell or its line."""
    return str(cell).replace("|", "\\|").replace("\n", " ")


def gain_text(gain: Mapping[str, float] | None) -> str:
    """A gain in points with its interval, if it has one: `+2.50 [+1.0, +4.0]`; `-` if there is none."""
    if gain is None:
        return "-"
    interval = f" [{gain['low']:+.1f}, {gain['high']:+.1f}]" if "low" in gain else ""
    return f"{gain['gain']:+.2f}{interval}"
