"""Files of tables and Hugging Face data sets, opened through `datasets`.

`datasets` maps Arrow files into memory, so any row is one look-up away. Parquet, csv and JSON lines are written once to
its cache as Arrow.
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pretrain.data.data_files import check_folder, escaped, exactly
from pretrain.data.table import TableCaptions
from vlm.errors import UserError, one_line
from vlm.hub import check_repository, is_hub_id
from vlm.reading import check_regular
from vlm.walking import walk

NEEDED = "a folder or glob of .tar, .parquet or .arrow files, or a hub id"


def open_files(
    paths: Sequence[Path], image_column: str | None, caption_column: str | None, roots: Sequence[Path] = ()
) -> TableCaptions:
    """Rows of .parquet, .arrow, .csv, .tsv, .jsonl or .json files, in the order given.

    roots: as for `TableCaptions`.
    """
    import datasets
    import pyarrow.parquet as pq

    for path in paths:
        _check_file(path)
    name = paths[0].parent.name if len(paths) > 1 else paths[0].name
    if paths[0].suffix.lower() == ".parquet":
        data = _loaded(name, lambda: datasets.load_dataset("parquet", data_files=exactly(paths), split="train"))
        rows = [pq.read_metadata(path).num_rows for path in paths]
    else:
        parts = [_loaded(str(path), lambda path=path: _open_file(path)) for path in paths]
        data = _loaded(name, lambda: datasets.concatenate_datasets(parts))
        rows = [len(part) for part in parts]
    return TableCaptions(data, name, image_column, caption_column, paths, rows, roots)


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


def _open_file(path: Path) -> Any:
    """One file as a `datasets.Dataset`."""
    import datasets

    suffix = path.suffix.lower()
    if suffix == ".arrow":
        return datasets.Dataset.from_file(str(path))
    if suffix in (".jsonl", ".json"):
        return datasets.load_dataset("json", data_files=exactly([path]), split="train")
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
    separator = "\t" if suffix == ".tsv" or "\t" in header else ","  # open_clip's .csv has tabs
    if "," not in header and separator == "," and ";" in header:  # as spreadsheets write it where 1/2 is 0,5
        separator = ";"
    columns = next(csv.reader([header], delimiter=separator), [])
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} names a column twice in its first line: {', '.join(columns)}")
    # As text, whatever it looks like: the captions "12", "None" and "NA" are captions.
    features = datasets.Features({column: datasets.Value("string") for column in columns})
    options = {"sep": separator, "features": features, "keep_default_na": False, "encoding": "utf-8-sig"}
    return datasets.load_dataset("csv", data_files=exactly([path]), split="train", **options)


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


def check_named(source: str) -> None:
    """Raises: UserError if `source` is no data set on the hub, nor one that `datasets` has kept from there."""
    import datasets

    if not is_hub_id(source):
        raise UserError(f"{source} does not exist: give {NEEDED}")
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
        raise UserError(f"{source} does not exist: give {needed}")
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
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, RuntimeError) as error:
        # A RuntimeError: a data set with a loading script, which `datasets` no longer runs.
        cause = error.__cause__ or error
        raise UserError(f"cannot read {name} as a data set: {one_line(cause)}") from error
    except StopIteration as error:  # of files without a row
        raise UserError(f"cannot read {name} as a data set: it seems to have no rows") from error
    except IndexError as error:  # what `datasets` raises for a saved split without rows
        raise UserError(f"cannot read {name} as a data set: a split of it seems to have no rows") from error
