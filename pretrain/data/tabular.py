"""Files of tables and Hugging Face data sets, opened through `datasets`.

`datasets` maps Arrow files into memory, so any row is one look-up away. Parquet, csv and JSON lines are written once to
its cache as Arrow.
"""

import errno
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pretrain.data.data_files import check_folder, escaped, exactly
from pretrain.data.delimited import open_delimited
from pretrain.data.table import TableCaptions
from vlm.errors import UserError, one_line
from vlm.hub import check_repository, is_hub_id
from vlm.reading import check_regular
from vlm.walking import walk

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
NEEDED = "a folder or glob of .tar, .parquet or .arrow files, or a hub id"


def open_files(
    paths: Sequence[Path], image_column: str | None, caption_column: str | None, roots: Sequence[Path] = ()
) -> TableCaptions:
    """Rows of .parquet, .arrow, .csv, .tsv, .jsonl or .json files, in the order given.

    roots: as for `TableCaptions`.
    """
    import datasets

    for path in paths:
        _check_file(path)
    name = paths[0].parent.name if len(paths) > 1 else paths[0].name
    told: list[str] = []
    if paths[0].suffix.lower() == ".parquet":
        paths, rows = _with_rows(paths, name, told)
        data = _loaded(name, lambda: datasets.load_dataset("parquet", data_files=exactly(paths), split="train"))
    else:
        parts = [_loaded(str(path), lambda path=path: _open_file(path, told)) for path in paths]
        data = _loaded(name, lambda: datasets.concatenate_datasets(parts))
        rows = [len(part) for part in parts]
    return TableCaptions(data, name, image_column, caption_column, paths, rows, roots, told)


def _with_rows(paths: Sequence[Path], name: str, told: list[str]) -> tuple[list[Path], list[int]]:
    """The .parquet files that hold rows, and how many; `told` gets a notice of the others.

    `datasets` refuses all for one without rows, as Spark writes it.
    Raises: UserError if a file is broken, or all are without rows.
    """
    import pyarrow
    import pyarrow.parquet as pq

    rows = []
    for path in paths:
        shown = path.name if len(paths) == 1 else path
        try:
            rows.append(pq.read_metadata(path).num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            cause = f"cannot read {shown} as a data set: {one_line(error)}"
            raise UserError(f"{cause}: fetch or write it again, or name the other files alone") from error
    empty = [path for path, count in zip(paths, rows) if not count]
    if len(empty) == len(paths):
        those = str(paths[0]) if len(paths) == 1 else f"the {len(paths)} files of {name}"
        raise UserError(f"no row is in {those}: give files that hold pairs")
    if empty:
        told.append(f"{len(empty)} of {len(paths)} files of {name} hold no rows and are left out, as {empty[0].name}")
    kept = [(path, count) for path, count in zip(paths, rows) if count]
    return [path for path, _ in kept], [count for _, count in kept]


def _check_file(path: Path) -> None:
    try:
        check_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def open_urls(
    urls: Sequence[str], image_column: str | None, caption_column: str | None, roots: Sequence[Path] = ()
) -> TableCaptions:
    """Rows of .parquet files in a store, which `datasets` downloads to its cache first. roots: as for `open_files`."""
    import datasets

    name = Path(urlsplit(urls[0]).path).name if len(urls) == 1 else Path(urlsplit(urls[0]).path).parent.name
    data = _loaded(name, lambda: datasets.load_dataset("parquet", data_files=[*map(escaped, urls)], split="train"))
    return TableCaptions(data, name or urlsplit(urls[0]).netloc, image_column, caption_column, [], roots=roots)


def _open_file(path: Path, told: list[str]) -> Any:
    """One file as a `datasets.Dataset`; `told` gets the notices of how it was read."""
    import datasets

    suffix = path.suffix.lower()
    if suffix == ".arrow":
        return datasets.Dataset.from_file(str(path))
    if suffix in (".jsonl", ".json"):
        return datasets.load_dataset("json", data_files=exactly([path]), split="train")
    data, notices = open_delimited(path)
    told += notices
    return data


def open_by_name(
    source: str, image_column: str | None, caption_column: str | None, roots: Sequence[Path] = ()
) -> TableCaptions:
    """What `datasets` opens as a whole: a folder by `save_to_disk`, one in the hub's layout, or an id like org/name.

    Of several splits `train` is taken. roots: as for `TableCaptions`, beside the folder or its place in the caches.
    Raises: UserError if the source is not there, cannot be read, or has no split `train`.
    """
    path, files = Path(source), []
    if is_saved(path):
        data = load_saved(path)
        if isinstance(data, dict):
            if "train" not in data:
                raise UserError(f"{path} has the splits {', '.join(data)}, not train: give the folder of one of them")
            data = data["train"]
        files = [Path(file["filename"]) for file in data.cache_files]
    elif path.is_dir() and not any("." in name for name in walk(path)):
        raise UserError(f"{source} holds no .tar, .parquet or .arrow file: give the folder with the shards")
    else:
        data = load_named(source, "train", NEEDED)
        if path.is_dir():
            files = sorted(path / name for name in walk(path) if name.endswith(".parquet"))
    return TableCaptions(data, path.name, image_column, caption_column, files, roots=[*named_roots(source), *roots])


def _lacks(source: str) -> str:
    return "is a file of another kind" if Path(source).exists() else "does not exist"


def check_named(source: str) -> None:
    """Raises: UserError if `source` is no data set on the hub, nor one that `datasets` has kept from there."""
    import datasets

    if not is_hub_id(source):
        raise UserError(f"{source} {_lacks(source)}: give {NEEDED}")
    if not (Path(datasets.config.HF_DATASETS_CACHE) / source.replace("/", "___")).is_dir():
        check_repository(source, "dataset", f"give {NEEDED}")


def named_roots(source: str) -> list[Path]:
    """Where the images of a data set may lie: the folder `source`, or in the caches what was downloaded of an id."""
    if Path(source).is_dir():
        return [Path(source)]
    import datasets
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{source.replace('/', '--')}"
    return [cached, Path(datasets.config.EXTRACTED_DATASETS_PATH)]


def given_roots(image_root: str | None) -> list[Path]:
    """What --image-root names, if it is given. Raises: UserError if it is no folder."""
    if not image_root:
        return []
    root = Path(image_root).expanduser()
    if not root.is_dir():
        raise UserError(f"--image-root {image_root} is no folder: give the one that the table's images lie in")
    return [root]


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()


def load_saved(folder: Path) -> Any:
    """What `save_to_disk` wrote: a `datasets.Dataset`, or a dict of them by split."""
    import datasets

    return _loaded(str(folder), lambda: datasets.load_from_disk(str(folder)))


def load_named(source: str, split: str | None, needed: str) -> Any:
    """What `load_dataset` understands: the `datasets.Dataset` of a split, or a dict of all by split.

    needed: what may be given, for the error. Raises: UserError if the source is not there or cannot be read.
    """
    import datasets

    is_folder = Path(source).is_dir()
    if not is_folder and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise UserError(f"{source} {_lacks(source)}: give {needed}")
    if not is_folder:
        return _loaded(f"{source}, which is no path here,", lambda: datasets.load_dataset(source, split=split))
    check_folder(Path(source))
    return _loaded(source, lambda: datasets.load_dataset(source, split=split))


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    """What `load()` gives; the libraries' many errors become one line about `name`."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        return load()
    except UserError:
        raise
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, RuntimeError) as error:
        if refused := _of_the_cache(error):
            raise UserError(refused) from error
        # A RuntimeError: a data set with a loading script, which `datasets` no longer runs.
        cause = error.__cause__ or error
        raise UserError(f"cannot read {name} as a data set: {one_line(cause)}") from error
    except StopIteration as error:  # of files without a row
        raise UserError(f"cannot read {name} as a data set: it seems to have no rows") from error
    except IndexError as error:  # what `datasets` raises for a saved split without rows
        raise UserError(f"cannot read {name} as a data set: a split of it seems to have no rows") from error


def _of_the_cache(error: BaseException) -> str | None:
    """What to tell if `datasets` may not write where it keeps converted files; None of any other error."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE).absolute()
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, OSError) and cause.errno in NOT_WRITABLE and isinstance(cause.filename, str):
            place = Path(cause.filename).absolute()
            if place.is_relative_to(cache) or cache.is_relative_to(place):
                advice = "set HF_HOME or HF_DATASETS_CACHE to a folder that can be written"
                return f"cannot write the cache of `datasets` in {cache} ({cause.strerror}): {advice}"
    return None
