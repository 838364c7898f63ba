"""Progress with rate and ETA, and small JSON files that are never half written."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlm.errors import UserError, writing


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


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` beside `path`, flush it to the disk, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    partial = path.with_name(path.name + ".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; `UserError` where it is missing or is not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): fetch or write it again") from None


def append_jsonl(path: str | Path, record: dict) -> None:
    """Append one object as one line; the line is on its way to the disk when this returns."""
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path, complete: bool = False) -> Iterator[dict]:
    """The objects of a JSON-lines file; `UserError` where it cannot be read or a line is broken.

    A last line torn by a kill is left out, as our own append-only files may have one. complete: no line may be torn,
    for files that others wrote: one that was cut off must not pass for a shorter one.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON lines ({error}): fetch or write it again") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines) and not complete:
                return
            raise UserError(f"{path}, line {number} is not JSON: the file was edited, cut off or damaged") from None
