"""Check a folder of GQA, VQAv2 or POPE downloads before hours are spent on it: files, counts, images.

Nothing is downloaded: what is missing is printed with its address. Archives that lie in DIR are unpacked with --unzip.
Exit code 0 if training or evaluation can start (with --splits: if each of them can be used), 2 otherwise.
"""

import argparse
from pathlib import Path

from data_checks.archives import unpack
from data_checks.official import DATA_SETS, DataSet, Download, Need, Split
from data_checks.reading import Found, decode_images, image_notes, is_official, read_split

from bridge.scoring.pope import RANDOM_FILES
from vlm.errors import UserError, run_command
from vlm.files import write_json

EXAMPLES = """examples:
  python scripts/prepare_data.py gqa data/gqa                            what is there, what to fetch from where
  python scripts/prepare_data.py gqa data/gqa --unzip --check-images 500
  python scripts/prepare_data.py vqav2 data/vqav2 --splits train2014 --check-images all --json report.json
  python scripts/prepare_data.py pope data/pope"""
USES = {"training": "can train on", "evaluation": "can evaluate on", "submission": "can write submissions for"}


def main() -> None:
    args = parse()
    data: DataSet = DATA_SETS[args.data]
    if not args.dir.is_dir():
        raise UserError(f"{args.dir} is not a folder: make it and fetch {data.title}'s files into it")
    splits = chosen(data, args.splits)
    if args.unzip:
        unzip(splits, args.dir)
    found = [read_split(data, args.dir, split) for split in splits]
    if args.check_images is not None:
        decode_images(found, args.check_images or None)
    needed = all if data.whole or args.splits else any
    ready = needed(not part.problem for part in found)
    print("\n".join([f"{data.title} in {args.dir}", table(found), *notes(data, args.dir, found)]))
    if args.json:
        report = {"data": args.data, "folder": str(args.dir), "ready": ready, "splits": [p.as_json() for p in found]}
        write_json(args.json, report)
    if not ready:
        broken = "; ".join(f"{part.split.name}: {part.problem}" for part in found if part.problem)
        raise UserError(f"{data.title} in {args.dir} cannot be used yet ({broken}): do what is listed above")
    names = {use: [part.split.name for part in found if part.use == use and not part.problem] for use in USES}
    print(f"{data.title}: " + "; ".join(f"{USES[use]} {', '.join(some)}" for use, some in names.items() if some))


def chosen(data: DataSet, names: list[str] | None) -> list[Split]:
    """The splits to check; UserError for one that the data set has not."""
    known = {split.name: split for split in data.splits}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UserError(f"{data.title} has no split {unknown[0]!r}; it has {', '.join(known)}")
    return [known[name] for name in names or known]


def unzip(splits: list[Split], folder: Path) -> None:
    """Unpack those of the splits' archives that lie in the folder."""
    for name in dict.fromkeys(need.source.name for split in splits for need in split.needs):
        if name.endswith(".zip") and (folder / name).is_file():
            count = unpack(folder / name, folder)
            print(f"{folder / name}: {f'{count:,} files unpacked' if count else 'was unpacked already'}")


def table(found: list[Found]) -> str:
    """A line a split: its counts beside the official ones, and whether it can be used."""
    lines = [("split", "questions", "official", "images", "official", "missing", "decoded", "state")]
    for part in found:
        numbers = (part.questions, "/".join(f"{n:,}" for n in part.split.questions), len(part.images))
        numbers = (*numbers, part.split.images or "-", len(part.missing), part.checked or "-")
        texts = [f"{n:,}" if isinstance(n, int) else n for n in numbers]
        lines.append((part.split.name, *texts, part.problem or f"ready ({part.use})"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:-1], widths[1:-1])), line[-1]])
        for line in lines
    )


def notes(data: DataSet, folder: Path, found: list[Found]) -> list[str]:
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
    lines += [f"images: {note}" for part in found for note in image_notes(part)]
    absent: dict[Download, list[Need]] = {}
    for need in (need for part in found for need in part.absent):
        absent.setdefault(need.source, []).append(need)
    for source, needs in absent.items():
        paths = ", ".join(dict.fromkeys(need.path for need in needs))
        optional = f" (optional: {needs[0].optional})" if all(need.optional for need in needs) else ""
        if (folder / source.name).is_file():
            lines.append(f"unpack: {source.name} for {paths}{optional}: run again with --unzip")
        else:
            lines.append(f"fetch: {source.url} ({source.size}) for {paths}{optional}")
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python scripts/prepare_data.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("data", choices=tuple(DATA_SETS))
    add("dir", type=Path, metavar="DIR", help="the folder that --gqa, --vqav2 or --pope will name")
    add("--splits", nargs="+", metavar="SPLIT", help="check these alone, and require each [all; one will do]")
    add("--unzip", action="store_true", help="first unpack the official archives that lie in DIR")
    add("--check-images", type=_count, metavar="all|N", help="decode all images, or N spread over each split")
    add("--json", type=Path, metavar="F", help="also write everything, with every missing and unreadable image")
    return parser.parse_args()


def _count(text: str) -> int:
    """0 stands for all."""
    if text == "all":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor a number above 0")
    return int(text)


if __name__ == "__main__":
    run_command(main)
