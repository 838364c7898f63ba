"""Is a folder of official downloads ready? What is there, what is missing, what to do about it."""

from collections.abc import Sequence
from pathlib import Path

from bridge.scoring.pope import RANDOM_FILES
from checks.archives import unpack
from checks.official import DATA_SETS, DataSet, Download, Need, Split
from checks.reading import Found, decode_images, image_notes, is_official, read_split
from vlm.errors import UserError
from vlm.files import write_json

USES = {"training": "can train on", "evaluation": "can evaluate on", "submission": "can write submissions for"}


def check_folder(
    name: str, folder: Path, names: Sequence[str], unzip: bool, images: int | None, report: Path | None
) -> None:
    """Check one data set's folder and print what was found.

    names: the splits to check, all of which must then be ready; none: all are checked, and one will do. images: how
    many of each split to decode, -1 for all, None for none. report: a JSON file to write as well.

    Raises: UserError if the folder cannot be used, or an archive in it cannot be unpacked.
    """
    data = DATA_SETS[name]
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: make it and fetch {data.title}'s files into it")
    splits = chosen(data, names)
    if unzip:
        unpack_archives(splits, folder)
    found = [read_split(data, folder, split) for split in splits]
    if images is not None:
        decode_images(found, None if images < 0 else images)
    needed = all if data.whole or names else any
    ready = needed(not part.problem for part in found)
    print("\n".join([f"{data.title} in {folder}", table(found), *notes(data, folder, found)]))
    if report:
        parts = [part.as_json() for part in found]
        write_json(report, {"data": name, "folder": str(folder), "ready": ready, "splits": parts})
    if not ready:
        broken = "; ".join(f"{part.split.name}: {part.problem}" for part in found if part.problem)
        raise UserError(f"{data.title} in {folder} cannot be used yet ({broken}): do what is listed above")
    print(f"{data.title}: {uses(found)}")


def uses(found: Sequence[Found]) -> str:
    """What the ready splits are good for: "can train on train; can evaluate on val, testdev"."""
    parts = []
    for use, words in USES.items():
        names = [part.split.name for part in found if part.use == use and not part.problem]
        if names:
            parts.append(f"{words} {', '.join(names)}")
    return "; ".join(parts)


def chosen(data: DataSet, names: Sequence[str]) -> list[Split]:
    """The splits to check: those named, or all. Raises: UserError if the data set has no split of a name."""
    known = {split.name: split for split in data.splits}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{data.title} has no split {unknown[0]!r}; it has {', '.join(known)}")
    return [known[name] for name in names or known]


def unpack_archives(splits: list[Split], folder: Path) -> None:
    """Unpack those of the splits' archives that lie in the folder."""
    needs = [need for split in splits for need in split.needs]
    for archive in dict.fromkeys(archive for need in needs for archive in need.archives(folder)):
        count = unpack(archive, folder)
        print(f"{archive}: {f'{count:,} files unpacked' if count else 'was unpacked already'}")


def table(found: Sequence[Found]) -> str:
    """A line a split: its counts beside the official ones, and whether it can be used."""
    lines = [["split", "questions", "official", "images", "official", "missing", "decoded", "state"]]
    for part in found:
        numbers = [
            f"{part.questions:,}",
            "/".join(f"{n:,}" for n in part.split.questions),
            f"{len(part.images):,}",
            f"{part.split.images:,}" if part.split.images else "-",
            f"{len(part.missing):,}",
            f"{part.checked:,}" if part.checked else "-",
        ]
        lines.append([part.split.name, *numbers, part.problem or f"ready ({part.use})"])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(line: list[str], widths: list[int]) -> str:
    """The first cell to the left, the numbers to the right, the last as it is."""
    numbers = [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1])]
    return "  ".join([line[0].ljust(widths[0]), *numbers, line[-1]])


def notes(data: DataSet, folder: Path, found: Sequence[Found]) -> list[str]:
    """Differences from the official counts, images to replace, files to fetch or unpack."""
    lines = []
    differing = [part.split.name for part in found if part.questions and not is_official(part)]
    if differing:
        lines.append(
            f"note: {', '.join(differing)}: not the official counts; no error, but another version, a part, or other "
            "data of the same form"
        )
    for part in found:
        if data.title == "POPE" and part.split.name == "random" and part.questions in RANDOM_FILES:
            lines.append(f"note: random is {RANDOM_FILES[part.questions]} ({part.questions} questions)")
    for part in found:
        lines += [f"images: {note}" for note in image_notes(part)]
    return lines + _what_to_fetch(folder, found)


def _what_to_fetch(folder: Path, found: Sequence[Found]) -> list[str]:
    """A line for each download that is missing: fetch it, or unpack it if it lies in the folder."""
    absent: dict[Download, list[Need]] = {}
    for part in found:
        for need in part.absent:
            absent.setdefault(need.source, []).append(need)
    lines = []
    for source, needs in absent.items():
        paths = ", ".join(dict.fromkeys(need.path for need in needs))
        optional = f" (optional: {needs[0].optional})" if all(need.optional for need in needs) else ""
        if archives := dict.fromkeys(archive.name for need in needs for archive in need.archives(folder)):
            lines.append(f"unpack: {', '.join(archives)} for {paths}{optional}: run again with --unzip")
        else:
            lines.append(f"fetch: {source.url} ({source.size}) for {paths}{optional}")
    return lines
