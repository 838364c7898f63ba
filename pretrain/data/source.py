"""What --data names -> image-caption pairs."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.data import remote, tabular
from pretrain.data.manifest import open_tars
from pretrain.data.mixing import MixedCaptions, Source, labels, parse_mixture
from pretrain.data.pairs import Captions
from pretrain.data.tars import CAPTION_SUFFIXES, IMAGE_SUFFIXES
from vlm.distributed import on_main
from vlm.errors import UserError


def open_captions(
    source: str | Path,
    image_column: str | None = None,
    caption_column: str | None = None,
    cache: Path | None = None,
    sha256: bool = False,
) -> Captions:
    """Open image-caption pairs; collective for tars, whose manifest rank 0 builds.

    `a=0.7,b=0.3` is a mixture of sources, as in `parse_mixture`. A URL names shards in a store, as in `remote.find`.
    `source` is a folder or glob of WebDataset tars, of parquet or of Arrow files; a folder written by `save_to_disk`;
    or a data set on the hub. A folder with files named train-* stands for those alone. For tars the two columns are
    the suffixes of the image and the caption members; cache and sha256 are for tars, as in `open_tars`.
    Raises: UserError if nothing is there, or it is of another kind.
    """
    options = (image_column, caption_column, cache, sha256)
    if mixture := parse_mixture(str(source)):
        paths = [path for path, _ in mixture]
        parts = zip(paths, labels(paths), [share for _, share in mixture])
        return MixedCaptions(
            [Source(path, label, share, open_captions(path, *options)) for path, label, share in parts]
        )
    if remote.is_remote(str(source)):
        return _open_remote(str(source), *options)
    paths = _files(str(source))
    if not paths:
        return tabular.open_by_name(str(source), image_column, caption_column)
    kinds = sorted({path.suffix for path in paths})
    if len(kinds) > 1 or kinds[0] not in (".tar", ".parquet", ".arrow"):
        needed = "captions come as .tar, .parquet or .arrow, one kind at a time"
        raise UserError(f"{source} is {', '.join(kinds)}; {needed}")
    if kinds == [".tar"]:
        return _open_tars(paths, *options)
    return tabular.open_files(paths, image_column, caption_column)


def _open_tars(
    paths: Sequence[str | Path],
    image_column: str | None,
    caption_column: str | None,
    cache: Path | None,
    sha256: bool,
) -> Captions:
    images = (image_column.lower().lstrip("."),) if image_column else IMAGE_SUFFIXES
    captions = (caption_column.lower().lstrip("."),) if caption_column else CAPTION_SUFFIXES
    return open_tars(paths, images, captions, cache, sha256)


def _open_remote(source: str, *options: Any) -> Captions:
    """Tars in a store, as one URL, brace pattern, glob or folder, or several joined with `::`."""
    urls = on_main(lambda: [url for pattern in expand(source) for url in remote.find(pattern)])
    kinds = sorted({remote.suffix(url) for url in urls})
    if kinds != [".tar"]:
        known = set(kinds) <= set(remote.SUFFIXES)
        cure = "download them first" if known else "give the address of shards that end in .tar"
        raise UserError(f"{remote.shown(source)} is {', '.join(kinds)}; of stores only .tar is read: {cure}")
    return _open_tars(urls, *options)


def _files(source: str) -> list[Path]:
    """The shards that a path or glob stands for; none if it has to be opened by name."""
    if source.startswith("pipe:"):
        raise UserError(f"{source}: commands are not run; give the URL of the shards, as https:// or s3://")
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


def expand(source: str) -> list[str]:
    """TEMPORARY until the other branch's: `a::b` and {000..003}."""
    from braceexpand import braceexpand

    return [one for part in source.split("::") for one in braceexpand(part)]
