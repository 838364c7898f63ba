"""Images with one label each: folders of class folders, and data sets on disk or on the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pretrain.data import table, table_images, tabular
from pretrain.data.captions import BadSample
from pretrain.probes.pixels import Images
from vlm.errors import UserError
from vlm.images import ImageError, decode, load_image
from vlm.walking import walk

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid", "test")}
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")


def image_files(paths: Sequence[Path]) -> Images:
    """The images in these files, in order."""
    return Images(len(paths), lambda number: load_image(paths[number]))


def image_paths(folder: Path) -> list[Path]:
    """The image files in a folder, not those below it, sorted; hidden ones are left out."""
    return sorted(path for path in folder.iterdir() if _is_image(path.name) and not path.name.startswith("."))


def images_below(folder: Path) -> list[Path]:
    """The image files in and below a folder, through links, sorted; hidden ones and hidden folders are left out."""
    return sorted(folder / name for name in walk(folder) if _is_image(name))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def decoded(data: bytes | None, source: str) -> Image.Image:
    try:
        return decode(data or b"")
    except ImageError as error:
        raise error.of(source) from None


@dataclass(frozen=True)
class Labelled:
    """images[i] shows classes[labels[i]]; labels: int64[B]."""

    images: Images
    labels: torch.Tensor
    classes: tuple[str, ...]


def open_labelled(
    source: str | Path,
    split: str,
    classes: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    image_root: str | None = None,
) -> Labelled:
    """The `train` or `val` split of a source; `val` is also called validation, valid or test.

    source: a folder of these splits, each of class folders (class folders alone are a `val` split); a data set written
    by `save_to_disk`; parquet in the hub's layout; or an id on the hub. classes: those of train, which the labels of
    val then refer to. image_root: a folder in which images that a table names may lie, beside the table's own.
    Raises: UserError if the split is missing, a class is empty, a label unknown, image_root no folder, or one
    of the last three is given for class folders.
    """
    path = Path(source)
    if tabular.is_saved(path):
        data = tabular.load_saved(path)
    elif path.is_dir() and not any(path.glob("*.parquet")) and not any(path.glob("*/*.parquet")):
        of_tables = {"--image-column": image_column, "--label-column": label_column, "--image-root": image_root}
        for name, value in of_tables.items():
            if value:
                raise UserError(f"{name} {value} is of data sets: {source} holds class folders, leave it out")
        return open_class_folders(_split_folder(path, split), classes)
    else:
        data = tabular.load_named(str(source), None, "a folder of class folders, a saved data set or a hub id")
    if not isinstance(data, dict):  # one split without a name
        data = {"val": data}
    name = next((name for name in SPLITS[split] if name in data), None)
    if name is None:
        raise UserError(f"{source} has no {split} split; its splits are {', '.join(data)}: this probe needs one")
    roots = [*tabular.named_roots(str(source)), *tabular.given_roots(image_root)]
    return _open_table(data[name], f"{source} ({name})", classes, image_column, label_column, roots)


def open_class_folders(folder: Path, classes: Sequence[str] | None = None) -> Labelled:
    """`folder/CLASS/**/*.jpg`; the classes are the folders' names, sorted, or those given.

    Raises: UserError if there are no class folders, one has no image, or a class is not among those given.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: a folder of class folders is needed")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UserError(f"{folder} holds no class folders: put the images of each class in a folder of its name")
    paths, shown = [], []
    for name in names:
        found = images_below(folder / name)
        if not found:
            raise UserError(f"{folder / name} holds no image ({', '.join(SUFFIXES)}): fill or remove this class")
        paths += found
        shown += [name] * len(found)
    return _labelled(image_files(paths), shown, classes or names, str(folder))


def _split_folder(root: Path, split: str) -> Path:
    """The folder of `split` in `root`; class folders without any split are `val`."""
    there = [name for names in SPLITS.values() for name in names if (root / name).is_dir()]
    if found := [name for name in there if name in SPLITS[split]]:
        return root / found[0]
    if split == "val" and not there:
        return root
    needed = " or ".join(SPLITS[split])
    if not there and not any(folder.is_dir() for folder in root.iterdir()):
        raise UserError(f"{root} has no {needed} folder: put into one a folder of images for each class, with its name")
    instead = ", ".join(there) or "class folders alone"
    raise UserError(f"{root} has no {needed} folder, only {instead}: this probe needs that split")


def _open_table(
    data: Any,
    name: str,
    classes: Sequence[str] | None,
    image_column: str | None,
    label_column: str | None,
    roots: Sequence[Path],
) -> Labelled:
    """The rows of a `datasets.Dataset`. roots: folders in which images that it names may lie."""
    image_column = table.choose_column(data.column_names, image_column, table.IMAGE_COLUMNS, "image", name)
    label_column = table.choose_column(data.column_names, label_column, LABEL_COLUMNS, "label", name)
    table.check_image_type(data.data.schema, image_column, name)
    if not len(data):
        raise UserError(f"{name} has no rows: give a data set whose split holds labelled images")
    values, feature = data.with_format(None)[label_column][:], data.features[label_column]
    if wrong := [value for value in values if value == -1 or not isinstance(value, int | str)]:
        found = f"column {label_column!r} of {name} has {len(wrong)} rows whose label is no class"
        advice = "take another split, or another column with --label-column"
        raise UserError(f"{found}, the first is {wrong[0]}: {advice}")
    if found := getattr(feature, "names", None):  # ClassLabel
        values = [found[value] for value in values]
    else:
        found = [str(value) for value in sorted(set(values))]
    rows = data.with_format("arrow").select_columns([image_column])

    def read(number: int) -> Image.Image:
        where = f"row {number} of {name}"
        try:
            return decoded(table_images.image_bytes(rows[number][image_column][0], roots), where)
        except (BadSample, OSError) as error:
            raise UserError(f"{where}: {getattr(error, 'strerror', None) or error}") from None

    return _labelled(Images(len(rows), read), [str(value) for value in values], classes or found, name)


def _labelled(images: Images, shown: Sequence[str], classes: Sequence[str], source: str) -> Labelled:
    """Turn the class that each image shows into its place among `classes`."""
    if len(classes) < 2:  # every answer would be right: often --data is a folder too high
        found = f"{source} has one class, {classes[0]!r}"
        raise UserError(f"{found}: give two or more, or the folder in which the class folders are")
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := [name for name in shown if name not in numbers]:
        found = f"{source} has the class {unknown[0]!r}"
        raise UserError(f"{found}, not one of {', '.join(classes[:3])}, ...: all splits need the same classes")
    return Labelled(images, torch.tensor([numbers[name] for name in shown]), tuple(classes))
