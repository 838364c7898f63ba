"""Values that others wrote into JSON: of the right type and within bounds, or one line that names file and key."""

import math
from typing import Any

from vlm.errors import UserError


class Fields:
    """The members of a JSON object, read with their types and bounds. where: its file, for messages."""

    def __init__(self, record: Any, where: str):
        """Raises: UserError if `record` is no object; so do the methods if a value is of another kind or missing."""
        if not isinstance(record, dict):
            raise UserError(f"{where} holds {brief_value(record)}: needed is a JSON object")
        self.record, self.where = record, where

    def __contains__(self, name: str) -> bool:
        return self.record.get(name) is not None

    def section(self, name: str) -> "Fields":
        """An object inside; an empty one if it is missing."""
        return Fields(self.record.get(name, {}), f"{self.where}, {name}")

    def whole(self, name: str, least: int, most: int) -> int:
        value = self._given(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(name, f"a whole number from {least:,} to {most:,}")
        return value

    def number(self, name: str) -> float:
        value = self._given(name)
        if not is_number(value):
            raise self._wrong(name, "a finite number")
        return value

    def three_numbers(self, name: str) -> tuple[float, ...]:
        values = self._given(name)
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(is_number, values)):
            raise self._wrong(name, "a list of 3 finite numbers")
        return tuple(values)

    def _given(self, name: str) -> Any:
        if name not in self.record:
            raise UserError(f"{self.where}: {name} is missing")
        return self.record[name]

    def _wrong(self, name: str, needed: str) -> UserError:
        return UserError(f"{self.where}: {name} is {brief_value(self.record[name])}; needed is {needed}")


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def brief_value(value: Any) -> str:
    """A value of JSON as messages show it."""
    if isinstance(value, dict | list):
        return f"a{'n object' if isinstance(value, dict) else ' list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
