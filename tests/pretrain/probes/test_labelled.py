"""Class folders and labelled data sets give the same images and labels; each refusal is one line."""

import datasets
import pytest
from PIL import Image
from tiny.pictures import encoded

from pretrain.probes.labelled import open_class_folders, open_labelled
from pretrain.probes.settings import ProbeConfig
from pretrain.probes.tasks import open_splits
from vlm.errors import UserError

COLORS = {"blue": (20, 40, 230), "green": (30, 200, 40), "red": (230, 20, 30)}


pytestmark = pytest.mark.usefixtures("own_caches")


def png(color):
    return encoded(Image.new("RGB", (16, 12), color))


def class_folders(root, counts=(("train", 4), ("val", 2))):
    for split, count in counts:
        for name, color in COLORS.items():
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                (root / split / name / f"{index}.PNG").write_bytes(png(color))
    return root


def rows(label, feature, count):
    names = sorted(COLORS)
    features = datasets.Features({"picture": datasets.Image(), "label": feature})
    images = [{"bytes": png(COLORS[names[n % 3]]), "path": None} for n in range(count)]
    labels = [label(n % 3) for n in range(count)]
    return datasets.Dataset.from_dict({"picture": images, "label": labels}, features=features)


def check(found, count):
    assert len(found.images) == len(found.labels) == count
    for image, label in zip(found.images, found.labels):
        assert image.getpixel((8, 8)) == COLORS[found.classes[label]] and image.size == (16, 12)


@pytest.mark.parametrize("val", ["val", "validation", "test"])
def test_class_folders(tmp_path, val):
    class_folders(tmp_path, (("train", 4), (val, 2)))
    for hidden in (".thumbnails", "deep/.cache"):
        (tmp_path / "train/red" / hidden).mkdir(parents=True)
        (tmp_path / "train/red" / hidden / "0.png").write_bytes(png(COLORS["blue"]))
    train = open_labelled(tmp_path, "train")
    assert train.classes == ("blue", "green", "red") and train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    check(train, 12)
    check(open_labelled(tmp_path, "val", train.classes), 6)
    check(open_labelled(tmp_path / "train", "val"), 12)  # class folders alone


def test_linked_folders_of_a_class_are_read(tmp_path):
    class_folders(tmp_path / "set")
    for name in COLORS:
        (tmp_path / "set/val" / name).rename(tmp_path / name)
        (tmp_path / "set/val" / name).mkdir()
        (tmp_path / "set/val" / name / "more").symlink_to(tmp_path / name)
    check(open_labelled(tmp_path / "set", "val"), 6)


@pytest.mark.parametrize(
    ("label", "feature"),
    [
        (int, datasets.ClassLabel(names=sorted(COLORS))),
        (lambda n: sorted(COLORS)[n], datasets.Value("string")),
    ],
)
def test_saved_data_sets(tmp_path, label, feature):
    splits = {"train": rows(label, feature, 9), "test": rows(label, feature, 6)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    train = open_labelled(tmp_path / "set", "train", image_column="picture")
    assert train.classes == ("blue", "green", "red")
    check(train, 9)
    check(open_labelled(tmp_path / "set", "val", train.classes, image_column="picture"), 6)
    with pytest.raises(UserError, match=r"none of the usual image columns .* name one with --image-column"):
        open_labelled(tmp_path / "set", "train")


def test_parquet_in_the_hubs_layout(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        data = rows(int, datasets.ClassLabel(names=sorted(COLORS)), 6).rename_column("picture", "image")
        data.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    check(open_labelled(tmp_path / "set", "train"), 6)
    check(open_labelled(tmp_path / "set", "val"), 6)


def test_brackets_in_a_path_are_no_pattern(tmp_path):
    for place, count in (("set [12]", 6), ("set 1", 9)):
        data = rows(int, datasets.ClassLabel(names=sorted(COLORS)), count).rename_column("picture", "image")
        for split in ("train", "validation"):
            (tmp_path / place / "hub/data").mkdir(parents=True, exist_ok=True)
            data.to_parquet(str(tmp_path / place / "hub/data" / f"{split}-00000-of-00001.parquet"))
        datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / place / "saved"))
    check(open_labelled(tmp_path / "set [12]/saved", "train"), 6)
    with pytest.raises(UserError, match="for a pattern: rename or move it"):
        open_labelled(tmp_path / "set [12]/hub", "train")


def test_numbers_without_names_are_classes_in_their_order(tmp_path):
    data = rows(lambda n: (100, 9, 20)[n], datasets.Value("int64"), 6)
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "set")
    found = open_labelled(tmp_path / "set", "train", image_column="picture")
    assert found.classes == ("9", "20", "100") and found.labels.tolist() == [2, 0, 1] * 2


def test_images_that_a_table_names_lie_in_the_image_root(tmp_path):
    pictures = class_folders(tmp_path / "pictures")
    names = sorted(COLORS)
    table = {"image": [f"val/{name}/0.PNG" for name in names], "label": names}
    rows = datasets.Dataset.from_dict(table)
    datasets.DatasetDict({"train": rows, "val": rows}).save_to_disk(tmp_path / "set")
    for part in open_splits(ProbeConfig("e", "knn", str(tmp_path / "set"), image_root=str(pictures))):
        check(part, 3)
    with pytest.raises(UserError, match=r"row 0 of .*set .*: image file not found"):
        list(open_labelled(tmp_path / "set", "val").images)
    with pytest.raises(UserError, match="--image-root nowhere is no folder"):
        open_labelled(tmp_path / "set", "val", image_root="nowhere")


def unlabelled(root):
    data = rows(lambda n: -1, datasets.ClassLabel(names=sorted(COLORS)), 3).rename_column("picture", "image")
    datasets.DatasetDict({"train": data}).save_to_disk(root / "set")
    return root / "set"


def one_split(root):
    datasets.DatasetDict({"test": rows(int, datasets.Value("int64"), 3)}).save_to_disk(root / "set")
    return root / "set"


def no_rows(root):
    data = rows(int, datasets.Value("int64"), 3).rename_column("picture", "image").filter(lambda row: False)
    datasets.DatasetDict({"train": data}).save_to_disk(root / "empty")
    return root / "empty"


def no_saved_rows(root):
    datasets.DatasetDict({"train": rows(int, datasets.Value("int64"), 0)}).save_to_disk(root / "set")
    return root / "set"


def loading_script(root):
    (root / "set").mkdir()
    (root / "set/set.py").write_text("raise SystemExit('code of the data set')")
    (root / "set/data.parquet").touch()
    return root / "set"


REFUSED = {
    "no rows": (no_rows, r"empty \(train\) has no rows: give a data set whose split holds labelled images"),
    "no saved rows": (no_saved_rows, r"set as a data set: a split of it seems to have no rows"),
    "loading script": (loading_script, r"cannot read .*set as a data set: .*scripts are no longer supported"),
    "no train": (lambda root: class_folders(root, (("val", 2),)), "has no train folder, only val"),
    "class folders alone": (lambda root: class_folders(root, (("a/b", 2),)) / "a/b", "only class folders alone"),
    "no such folder": (lambda root: root / "no/where/at all", "does not exist: give a folder of class folders"),
    "no classes": (lambda root: (root / "train").mkdir() or root, "train holds no class folders"),
    "no train split": (one_split, "has no train split; its splits are test"),
    "no labels": (unlabelled, "has 3 rows whose label is no class, the first is -1"),
    "empty class": (lambda root: (class_folders(root) / "train/grey").mkdir() or root, "train/grey holds no image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_named(tmp_path, name):
    build, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        open_labelled(build(tmp_path), "train")


def test_classes_that_train_has_not_and_images_that_are_none(tmp_path):
    class_folders(tmp_path)
    with pytest.raises(UserError, match=r"val has the class 'green', not one of blue, red, \.\.\."):
        open_class_folders(tmp_path / "val", ("blue", "red"))
    (tmp_path / "val/red/0.PNG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"not an image: .*val/red/0\.PNG"):
        list(open_labelled(tmp_path, "val").images)


def test_a_single_class_is_refused_since_every_answer_would_be_right(tmp_path):
    class_folders(tmp_path / "deep")
    with pytest.raises(UserError, match=r"has one class, 'deep': give two or more, or the folder in which"):
        open_labelled(tmp_path, "val")


def test_a_column_that_cannot_hold_images_is_one_line(tmp_path):
    rows(int, datasets.Value("int64"), 6).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"column 'label' of .*set .*holds int64, not images .* with --image-column"):
        open_labelled(tmp_path / "set", "val", image_column="label")
