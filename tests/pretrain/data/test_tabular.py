"""pretrain.data.tabular: parquet, Arrow and saved data sets give the same pairs; bad rows cost only themselves."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny.pictures import as_pixels, numbered

from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from vlm.errors import UserError

pytestmark = pytest.mark.usefixtures("own_caches")


def write_parquet(path, images, captions, **names):
    columns = {names.get("image", "image"): images, names.get("caption", "caption"): captions}
    pq.write_table(pa.table(columns), path, row_group_size=7)


def struct(values):
    return pa.array(
        [{"bytes": value, "path": None} for value in values], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )


def numbers(data):
    """Every pair once, as (picture's number, caption's number)."""
    batches = CaptionBatches(data, as_pixels, 10, stop_step=len(data) // 10)
    return sorted(
        (int(picture[0, 4, 4]), int(caption.split()[1]))
        for batch in batches
        for picture, caption in zip(batch["images"], batch["captions"])
    )


def saved(folder, split=None):
    features = datasets.Features(
        {"jpg": datasets.Image(), "txt": datasets.Value("string"), "id": datasets.Value("int64")}
    )
    rows = {"jpg": [{"bytes": numbered(n), "path": None} for n in range(30)], "txt": [f"row {n}" for n in range(30)]}
    data = datasets.Dataset.from_dict(rows | {"id": list(range(30))}, features=features)
    (datasets.DatasetDict({split: data}) if split else data).save_to_disk(folder, num_shards=3 if not split else None)
    return folder


def parquet_folder(folder):
    folder.mkdir()
    for part in range(3):
        span = range(10 * part, 10 * part + 10)
        write_parquet(folder / f"part-{part}.parquet", struct(map(numbered, span)), [f"row {n}" for n in span])
    return folder


def with_figure(folder):
    """As a hub repository is cloned: train and test in data/, and a picture for the README."""
    folder.mkdir()
    (folder / "figure.png").write_bytes(numbered(99))
    parquet_folder(folder / "data")
    for path in sorted((folder / "data").iterdir()):
        path.rename(path.with_name(f"train-{path.name}"))
    write_parquet(folder / "data/test-0.parquet", struct([numbered(99)]), ["row 99"])
    return folder


SOURCES = {
    "parquet folder": parquet_folder,
    "parquet glob": lambda folder: f"{parquet_folder(folder)}/*.parquet",
    "saved data set": saved,
    "saved splits": lambda folder: saved(folder, "train"),
    "Arrow files": lambda folder: f"{saved(folder)}/*.arrow",
    "hub layout": lambda folder: (folder.mkdir(), parquet_folder(folder / "data"), folder)[2],
    "hub layout with a figure": lambda folder: with_figure(folder),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(tmp_path, name):
    data = open_captions(SOURCES[name](tmp_path / "set"))
    assert numbers(data) == [(n, n) for n in range(30)]
    assert data.first_captions(2) == ["row 0", "row 1"]


def test_the_fingerprint_is_of_names_and_content_not_of_the_place(tmp_path):
    def fingerprint(place, first=0, part="a.parquet", caption=None):
        folder = tmp_path / place
        folder.mkdir()
        captions = [f"row {n:02}" for n in range(first, first + 30)]
        captions[-1] = caption or captions[-1]
        write_parquet(folder / part, struct(map(numbered, [5] * 30)), captions)
        write_parquet(folder / "z.parquet", struct([numbered(1)]), ["x"])
        return open_captions(folder).fingerprint

    same = fingerprint("one")
    assert fingerprint("moved") == same
    assert fingerprint("renamed", part="b.parquet") != same
    assert fingerprint("other rows", first=30) != same  # as many rows, the same names and columns
    kept, moved = (open_captions(saved(tmp_path / place)) for place in ("saved", "saved elsewhere"))
    assert len(kept.files) == 3 and kept.fingerprint == moved.fingerprint
    assert fingerprint("longer", caption="row 29, " + "at length " * 9) != same  # of the sizes alone, row 29 of 31


def test_workers_give_the_same_batches(tmp_path):
    data = open_captions(parquet_folder(tmp_path / "set"))
    alone, workers = (list(CaptionBatches(data, as_pixels, 10, stop_step=4, workers=n)) for n in (0, 2))
    assert [b["ids"] for b in alone] == [b["ids"] for b in workers]
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(alone, workers))


def test_bad_rows_cost_only_themselves(tmp_path):
    captions = pa.array(
        [b"row %d" % n for n in range(24)] + [None, b"", b"row 26 caf\xe9", b"row 27", b"row 28"], pa.binary()
    )
    images = [numbered(n) for n in range(27)] + [None, b"<html>"]
    write_parquet(tmp_path / "a.parquet", struct(images), captions.view(pa.string()), caption="TEXT")
    data = open_captions(tmp_path / "a.parquet", caption_column="TEXT")
    batches = list(CaptionBatches(data, as_pixels, 29, stop_step=1, quarantine=tmp_path / "quarantine.jsonl"))
    records = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {(r["shard"], r["index"], r["reason"]) for r in records} == {
        ("a.parquet", 24, "empty caption"),
        ("a.parquet", 25, "empty caption"),
        ("a.parquet", 27, "no image"),
        ("a.parquet", 28, "not an image"),
    }
    assert "row 26 caf\ufffd" in batches[0]["captions"]


def test_plain_binary_images(tmp_path):
    write_parquet(
        tmp_path / "a.parquet", pa.array(map(numbered, range(10)), pa.binary()), [f"row {n}" for n in range(10)]
    )
    assert numbers(open_captions(tmp_path / "a.parquet")) == [(n, n) for n in range(10)]


def truncated(path):
    write_parquet(path, struct([numbered(1)]), ["x"])
    path.write_bytes(path.read_bytes()[:-50])


REFUSED = {
    "wrong image column": (
        {"image_column": "img"},
        "has no column 'img'; its columns are picture, caption: name one with --image-column",
    ),
    "no usual image column": ({}, "none of the usual image columns .* its columns are picture, caption"),
    "wrong caption column": ({"image_column": "picture", "caption_column": "alt"}, "no column 'alt'; its columns are"),
    "caption is no text": ({"image_column": "picture", "caption_column": "picture"}, "holds struct<.*not strings"),
    "image is no image": ({"image_column": "caption"}, r"row 0 of .*a\.parquet, column 'caption': 'x' is in none of "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_columns_name_the_right_ones(tmp_path, name):
    columns, words = REFUSED[name]
    write_parquet(tmp_path / "a.parquet", struct([numbered(1)]), ["x"], image="picture")
    with pytest.raises(UserError, match=words):
        open_captions(tmp_path / "a.parquet", **columns)


def test_files_that_cannot_be_read(tmp_path):
    truncated(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"cannot read a\.parquet as a data set: .*magic bytes"):
        open_captions(tmp_path / "a.parquet")
    (tmp_path / "b.arrow").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"b\.arrow as a data set"):
        open_captions(tmp_path / "b.arrow")
    with pytest.raises(UserError, match="has the splits val, not train"):
        open_captions(saved(tmp_path / "saved", "val"))


def test_brackets_in_a_path_are_no_pattern(tmp_path):
    """`/x/set [12]` read `/x/set 1`, and an empty pattern ended in a traceback."""
    for place, number in (("set [12]", 5), ("set 1", 99)):
        folder = tmp_path / place
        (folder / "hub/data").mkdir(parents=True)
        for name in ("a", "b", "hub/data/train-00000-of-00001", "hub/data/test-00000-of-00001"):
            write_parquet(folder / f"{name}.parquet", struct([numbered(number)]), [f"row {number}"])
        (folder / "1.png").write_bytes(numbered(number))
        (folder / "c.jsonl").write_text(json.dumps({"image": "1.png", "caption": f"row {number}"}) + "\n")
        (folder / "d.csv").write_text(f"image,caption\n1.png,row {number}\n")
    for name in ("a.parquet", "{a,b}.parquet", "c.jsonl", "d.csv"):
        data = open_captions(f"{tmp_path}/set [12]/{name}")
        assert data.caption(0) == b"row 5" and data.read(0)[0] == numbered(5), name
    with pytest.raises(UserError, match=r"set \[12\]/hub: `datasets` takes .* for a pattern: rename or move it"):
        open_captions(f"{tmp_path}/set [12]/hub")


def test_files_without_a_row_are_one_line(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match=r"cannot read .*a\.jsonl as a data set: it seems to have no rows"):
        open_captions(tmp_path / "a.jsonl")


def test_parquet_without_rows_is_left_out_and_told(tmp_path, capsys):
    folder = parquet_folder(tmp_path / "set")
    expected = open_captions(folder)
    write_parquet(folder / "part-1b.parquet", pa.array([], pa.binary()), pa.array([], pa.string()))
    capsys.readouterr()
    data = open_captions(folder)
    told = "1 of 4 files of set hold no rows and are left out, as part-1b.parquet"
    assert told in capsys.readouterr().err.splitlines()
    assert numbers(data) == [(n, n) for n in range(30)] and data.fingerprint == expected.fingerprint
    assert data.where(25) == f"row 5 of {folder}/part-2.parquet"
    with pytest.raises(UserError, match=r"no row is in .*/part-1b\.parquet: give files that hold pairs"):
        open_captions(folder / "part-1b.parquet")
    (folder / "part-1c.parquet").touch()
    with pytest.raises(UserError, match=r"cannot read .*/set/part-1c\.parquet .*: Parquet file size is 0 bytes: fetch"):
        open_captions(folder)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, wrapped):
    def refuse(*_, **__):
        refused = PermissionError(13, "Permission denied", str(tmp_path / "cache/parquet"))
        if not wrapped:
            raise refused
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from refused

    parquet_folder(tmp_path / "set")
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    words = (
        r"cannot write the cache of `datasets` in .*/cache \(Permission denied\): set HF_HOME or HF_DATASETS_CACHE to"
    )
    with pytest.raises(UserError, match=words):
        open_captions(tmp_path / "set")


def test_a_linked_folder_in_the_hubs_layout_is_not_left_out(tmp_path):
    """`datasets` would pass over it without a word."""
    parquet_folder(tmp_path / "elsewhere")
    (tmp_path / "set/data").mkdir(parents=True)
    (tmp_path / "set/more").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/part-0.parquet").rename(tmp_path / "set/data/part-0.parquet")
    with pytest.raises(UserError, match=r"set/more is a link, which `datasets` does not follow: put the folder there"):
        open_captions(tmp_path / "set")
    (tmp_path / "link").symlink_to("set/data")
    assert numbers(open_captions(tmp_path / "link")) == [(n, n) for n in range(10)]


def test_a_hub_id_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot read no/such-set, which is no path here, as a data set"):
        open_captions("no/such-set")
