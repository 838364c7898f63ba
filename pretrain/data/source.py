"""What --data names -> image-caption pairs."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pretrain.data import remote, tabular
from pretrain.data.captions import BadSample, field_names, parse_place, text_fields
from pretrain.data.folder import FolderCaptions
from pretrain.data.manifest import TarCaptions, open_tars
from pretrain.data.mixing import MixedCaptions, Source, labels, parse_mixture
from pretrain.data.naming import BY_NAME, IMAGES, TEXT_SUFFIXES, brief, expand, locate
from pretrain.data.pairs import Captions
from pretrain.data.samples import CAPTION_SUFFIXES, IMAGE_SUFFIXES, Fields
from pretrain.data.shards import versions
from vlm.distributed import is_main, on_main
from vlm.errors import UserError

FIRST_SAMPLES = 16  # in which a wrong field of the captions' JSON is noticed
MOST_NOTICES = 5


def open_captions(
    source: str | Path,
    image_column: str | None = None,
    caption_column: str | None = None,
    cache: Path | None = None,
    sha256: bool = False,
    image_root: str | None = None,
    as_listed: bool = False,
) -> Captions:
    """Open image-caption pairs; collective for tars, whose manifest rank 0 builds.

    `a=0.7,b=0.3` is a mixture of sources, as in `parse_mixture`. A URL names shards in a store, as in `remote.find`.
    On this machine `source` is what `naming.locate` finds: WebDataset tars, parquet, Arrow, csv, tsv or jsonl; a folder
    of them, of images with text files, or written by `save_to_disk`; or a data set on the hub. A folder with files
    named train-*, or a folder train, stands for those alone. Of tars and images the two columns are the suffixes;
    `json:FIELD` is a field of KEY.json. cache, sha256 and as_listed are for tars, as in `open_tars`. What is
    there and is not read is told on stderr. image_root: a folder in which images that a table names may lie, beside the
    table's and --data's.
    Raises: UserError if nothing is there, or it is of another kind.
    """
    options = (image_column, caption_column, cache, sha256)
    tar_options = (*options, as_listed)
    roots = tabular.given_roots(image_root)
    if mixture := parse_mixture(str(source)):
        paths = [path for path, _ in mixture]
        parts = zip(paths, labels(paths), [share for _, share in mixture])
        return MixedCaptions(
            [
                Source(path, label, share, open_captions(path, *options, image_root, as_listed))
                for path, label, share in parts
            ]
        )
    if remote.is_remote(str(source)):
        return _told(str(source), _open_remote(str(source), roots, *tar_options))
    found = locate(str(source))
    for notice in found.notices:
        _tell(notice)
    if found.kind == ".tar":
        return _told(str(source), _open_tars(found.paths, *tar_options))
    if found.kind == IMAGES:
        fields, field = _fields(image_column, caption_column, TEXT_SUFFIXES)
        data = FolderCaptions(found.paths[0], found.names, fields, field)
        if field is not None:
            _refuse_without_field(data, field)
        return _told(str(source), data)
    if found.kind == BY_NAME:
        return tabular.open_by_name(str(found.paths[0]), image_column, caption_column, roots)
    named = [found.root] if found.root else []
    data = tabular.open_files(found.paths, image_column, caption_column, [*named, *roots])
    return _told(str(source), data)


def check_captions(source: str) -> None:
    """Raises: UserError if nothing is there for `open_captions`. Reads no sample, and asks no store for a URL."""
    for path in [path for path, _ in parse_mixture(source)] or [source]:
        if remote.is_remote(path):
            continue
        found = locate(path)
        if found.kind == BY_NAME and not found.paths[0].exists():
            tabular.check_named(str(found.paths[0]))


def _open_tars(
    paths: Sequence[str | Path],
    image_column: str | None,
    caption_column: str | None,
    cache: Path | None,
    sha256: bool,
    as_listed: bool,
) -> Captions:
    fields, field = _fields(image_column, caption_column, CAPTION_SUFFIXES)
    data = open_tars(paths, fields, field, cache, sha256, as_listed)
    if field is not None and not as_listed:  # nothing is read of shards that may have changed
        _refuse_without_field(data, field)
    return data


def _fields(image_column: str | None, caption_column: str | None, usual: Sequence[str]) -> tuple[Fields, str | None]:
    """The suffixes of images and captions, several joined by `;`, and the captions' field in JSON if they are that."""
    images, captions, field = IMAGE_SUFFIXES, tuple(usual), None
    if image_column:
        images = _suffixes(image_column)
    if caption_column:
        name, field = parse_place(caption_column)
        captions = _suffixes(name)
        if not field and captions != ("json",):
            field = None
    return Fields(images, captions), field


def _suffixes(given: str) -> tuple[str, ...]:
    """`.JPG;png` -> ("jpg", "png")"""
    return tuple(suffix.strip().lower().lstrip(".") for suffix in given.split(";"))


def _refuse_without_field(data: TarCaptions | FolderCaptions, field: str) -> None:
    """Raise `UserError` if the first captions have no text in this field of their JSON: it names those that have."""
    for number in range(min(FIRST_SAMPLES, len(data))):
        with suppress(BadSample, OSError):
            data.caption(number)
            return
    names = field_names(data.document(0))
    wanted = f"have no text in their field {field}" if field else "are no text but have fields"
    advice = ": name a field of KEY.json, as --caption-column json:caption"
    if names:
        advice = f"; they have the {text_fields(names)}"
    raise UserError(f"the captions of {data.identify(0)[0]} {wanted}{advice}")


def _told(source: str, data: Captions) -> Captions:
    """The data, once it is said how many of its samples are known to be unusable, and what else is not read."""
    left_out = data.reasons()
    if left_out:
        words = ", ".join(f"{count:,} x {reason}" for reason, count in left_out.most_common())
        count = f"{left_out.total():,} of {len(data) + left_out.total():,} samples"
        _tell(f"{count} of {brief(source)} are left out: {words}")
    for number, notice in enumerate(data.notices()):
        if number == MOST_NOTICES:
            _tell(f"more of this kind in {brief(source)}: see quarantine.jsonl")
            break
        _tell(notice)
    return data


def _tell(line: str) -> None:
    if is_main():
        print(line, file=sys.stderr)


def _open_remote(
    source: str, roots: Sequence[Path], image_column: str | None, caption_column: str | None, *options: Any
) -> Captions:
    """Tars or parquet in a store, as one URL, brace pattern, glob or folder, or several joined with `::`."""
    urls = on_main(lambda: [url for pattern in expand(source) for url in remote.find(pattern)])
    kinds = sorted({remote.suffix(url) for url in urls})
    if kinds == [".tar"]:
        return _open_tars(urls, image_column, caption_column, *options)
    if kinds == [".parquet"]:
        on_main(lambda: versions(urls))  # what is missing is one line
        _tell(f"{remote.public_url(source)} is parquet: it is downloaded and kept in datasets' cache")
        return tabular.open_urls(urls, image_column, caption_column, roots)
    given = ", ".join(kind or "without a suffix" for kind in kinds)
    raise UserError(f"{remote.public_url(source)} is {given}; of stores .tar and .parquet are read, one kind at a time")
