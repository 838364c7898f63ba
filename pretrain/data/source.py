"""What --data names -> image-caption pairs."""

import glob
from pathlib import Path

from pretrain.data import remote, tabular
from pretrain.data.manifest import open_tars
from pretrain.data.pairs import Captions
from pretrain.data.tars import CAPTION_SUFFIXES, IMAGE_SUFFIXES
from vlm.errors import UserError


def open_captions(
    source: str | Path,
    image_column: str | None = None,
    caption_column: str | None = None,
    cache: Path | None = None,
    sha256: bool = False,
) -> Captions:
    """Open image-caption pairs; collective for tars, whose manifest rank 0 builds.

    `source` is a folder or glob of WebDataset tars, of parquet or of Arrow files; a folder written by `save_to_disk`;
    or a data set on the hub. A folder with files named train-* stands for those alone. For tars the two columns are
    the suffixes of the image and the caption members; cache and sha256 are for tars, as in `open_tars`.
    Raises: UserError if nothing is there, or it is of another kind.
    """
    paths = _files(str(source))
    if not paths:
        return tabular.open_by_name(str(source), image_column, caption_column)
    kinds = sorted({path.suffix for path in paths})
    if len(kinds) > 1 or kinds[0] not in (".tar", ".parquet", ".arrow"):
        needed = "captions come as .tar, .parquet or .arrow, one kind at a time"
        raise UserError(f"{source} is {', '.join(kinds)}; {needed}")
    if kinds == [".tar"]:
        images = (image_column.lower().lstrip("."),) if image_column else IMAGE_SUFFIXES
        captions = (caption_column.lower().lstrip("."),) if caption_column else CAPTION_SUFFIXES
        return open_tars(paths, images, captions, cache, sha256)
    return tabular.open_files(paths, image_column, caption_column)


def _files(source: str) -> list[Path]:
    """The shards that a path or glob stands for; none if it has to be opened by name."""
    if source.startswith("pipe:") or "://" in source:
        raise UserError(f"{source}: only files on this machine are read, no commands and no URLs; download them first")
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir() and not tabular.is_saved(path):
        for pattern in ("*.tar", "*.parquet", "*.arrow"):
            if found := sorted(path.glob("train-" + pattern)) or sorted(path.glob(pattern)):
                return found
    elif glob.has_magic(source) and not path.is_dir():
        found = sorted(Path(name) for name in glob.glob(source, recursive=True))
        if not found:
            raise UserError(f"no file matches {source}: check the pattern")
        return found
    return []
