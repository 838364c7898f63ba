"""Files that change on the disk, and records of them that lie: each is refused in a line, or changes nothing."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from faults.fault import Failed, Fault, Sweep, demand
from faults.folders import RECORDS, content, whole
from vlm.errors import UserError

Change = Callable[[Path, random.Random], object]


def faults(settings: Sweep) -> Iterator[Fault]:
    for kind in RECORDS:
        for seed in settings.seeds(settings.mutations):
            change = list(CHANGES)[seed % len(CHANGES)]
            yield Fault(f"{kind}: a file is {change}", seed, partial(mutate, settings, kind, CHANGES[change], seed))
        for number, lie in enumerate(LIES):
            yield Fault(f"{kind}: its record {lie}", number, partial(tell, settings, kind, LIES[lie]))


def mutate(settings: Sweep, kind: str, change: Change, seed: int, folder: Path) -> str:
    """Change one file of a folder, chosen by the seed, and load it."""
    choice = random.Random(seed)
    damaged = _copy(settings, kind, folder)
    file = choice.choice(sorted(path for path in damaged.rglob("*") if path.is_file()))
    change(file, choice)
    return f"{file.name}: {judged(settings, kind, damaged)}"


def tell(settings: Sweep, kind: str, lie: Callable[[dict], Any], folder: Path) -> str:
    """Write another record over that of a folder, which must then be refused."""
    damaged = _copy(settings, kind, folder)
    (folder / "outside.json").write_text("{}")
    record = damaged / RECORDS[kind]
    told = lie(json.loads(record.read_text()))
    record.write_text(told if isinstance(told, str) else json.dumps(told))
    if told == json.loads((whole(settings, kind) / RECORDS[kind]).read_text()):
        (damaged / "unlisted.json").write_text("{}")
    outcome = judged(settings, kind, damaged)
    demand(outcome.startswith("refused"), "a record that lies is believed")
    return outcome


def judged(settings: Sweep, kind: str, damaged: Path) -> str:
    """Load a folder -> "refused" with the reason, or "harmless"; what else happens is a failure."""
    try:
        found = content(damaged, kind)
    except UserError as error:
        demand("\n" not in str(error), "the error has several lines")
        return f"refused ({str(error).replace(str(damaged), '')[:60]})"
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    demand(found == _undamaged(settings, kind), "loaded in silence, and it is not what was written")
    return "harmless"


@cache
def _undamaged(settings: Sweep, kind: str) -> Any:
    return content(whole(settings, kind), kind)


def _copy(settings: Sweep, kind: str, folder: Path) -> Path:
    source = whole(settings, kind)
    return Path(shutil.copytree(source, folder / source.name))


def _flip(file: Path, choice: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
    file.write_bytes(data)


def _zero(file: Path, choice: random.Random) -> None:
    """As a file looks whose last blocks never came to the disk."""
    data = bytearray(file.read_bytes())
    length = choice.randrange(1, len(data) + 1)
    data[-length:] = bytes(length)
    file.write_bytes(data)


CHANGES: dict[str, Change] = {
    "flipped in a bit": _flip,
    "cut": lambda file, choice: os.truncate(file, choice.randrange(file.stat().st_size)),
    "longer": lambda file, choice: file.write_bytes(file.read_bytes() + choice.randbytes(choice.randrange(1, 100))),
    "removed": lambda file, choice: file.unlink(),
    "zero at its end": _zero,
    "renamed": lambda file, choice: os.rename(file, file.with_name(f"{choice.randrange(100)}{file.suffix}")),
}


def _files(change: Callable[[dict], Any]) -> Callable[[dict], Any]:
    """A lie about the files alone."""
    return lambda record: {**record, "files": change(dict(record["files"]))}


def _first(files: dict, entry: Any) -> dict:
    return {**files, next(iter(files)): entry}


def _twice(record: dict) -> str:
    """The first file a second time, with another hash before the right one."""
    text = json.dumps(record)
    name, entry = next(iter(record["files"].items()))
    right = f"{json.dumps(name)}: {json.dumps(entry)}"
    return text.replace(right, f"{json.dumps(name)}: [1, {json.dumps('0' * 64)}], {right}", 1)


LIES: dict[str, Callable[[dict], Any]] = {
    "has no keys": lambda record: {},
    "is a list": lambda record: [record],
    "is null": lambda record: None,
    "is cut": lambda record: json.dumps(record)[:-5],
    "nests 100,000 deep": lambda record: "[" * 100_000,
    "has a number of 5,000 digits": lambda record: '{"files": ' + "1" * 5000 + "}",
    "lists no files": _files(lambda files: {}),
    "has a list of files": _files(list),
    "leaves one file out": _files(lambda files: dict(list(files.items())[1:])),
    "does not know a file that is there": lambda record: record,
    "has a size as text": _files(lambda files: _first(files, ["1", "0" * 64])),
    "has a hash that is a number": _files(lambda files: _first(files, [1, 1])),
    "has null for a file": _files(lambda files: _first(files, None)),
    "lists ../outside.json": _files(lambda files: {**files, "../outside.json": [2, OUTSIDE]}),
    "lists /etc/passwd": _files(lambda files: {**files, "/etc/passwd": [2, OUTSIDE]}),
    "lists a file twice": _twice,
}
OUTSIDE = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # SHA-256 of "{}"
