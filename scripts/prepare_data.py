"""Check a folder of GQA, VQAv2 or POPE downloads before hours are spent on it: files, counts, images.

Nothing is downloaded: what is missing is printed with its address. Archives that lie in DIR are unpacked with --unzip.
Exit code 0 if training or evaluation can start (with --splits: if each of them can be used), 2 otherwise.
"""

from dataclasses import dataclass
from pathlib import Path

from checks.official import DATA_SETS

from vlm.errors import UserError, run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/prepare_data.py gqa data/gqa                          # what is there, what to fetch
  python scripts/prepare_data.py gqa data/gqa --unzip --check-images 500
  python scripts/prepare_data.py vqav2 data/vqav2 --splits train2014 --check-images all --json report.json
  python scripts/prepare_data.py pope data/pope
"""


@dataclass(frozen=True)
class DataSettings:
    data: str = setting(help="which data set", positional=True, choices=tuple(DATA_SETS))
    dir: str = setting(help="the folder that --gqa, --vqav2 or --pope will name", positional=True, metavar="DIR")
    splits: tuple[str, ...] = setting(
        (), help="check these alone, and require each", metavar="SPLIT", default_text="all; one will do"
    )
    unzip: bool = setting(False, help="first unpack the official archives that lie in DIR")
    check_images: str | None = setting(None, help="decode all images, or N spread over each split", metavar="all|N")
    json: str | None = setting(None, help="also write everything, with every missing and unreadable image", metavar="F")


def image_count(text: str | None) -> int | None:
    """How many images of each split to decode: "all" -> -1, None -> None.

    Raises: UserError if the text is neither all nor a number above 0.
    """
    if text is None:
        return None
    if text == "all":
        return -1
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--check-images {text}: give all or a number above 0")
    return int(text)


def main() -> None:
    settings = parse(DataSettings, prog="scripts/prepare_data.py", about=__doc__, examples=EXAMPLES)
    images = image_count(settings.check_images)
    from checks.summary import check_folder  # after parsing: --help does not wait for torch

    report = Path(settings.json) if settings.json else None
    check_folder(settings.data, Path(settings.dir), settings.splits, settings.unzip, images, report)


if __name__ == "__main__":
    run_command(main)
