"""pretrain.data.table: images by path, several captions of an image, text tables."""

import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny.pictures import as_pixels, numbered

from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from vlm.errors import UserError

pytestmark = pytest.mark.usefixtures("own_caches")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def images(folder, count=10):
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(numbered(number))


def numbers(data):
    (batch,) = CaptionBatches(data, as_pixels, len(data), stop_step=1)
    pictures = [int(picture[0, 4, 4]) for picture in batch["images"]]
    return sorted(zip(pictures, (int(caption.split()[1]) for caption in batch["captions"])))


SAME = [(number, number) for number in range(10)]


def records(image="imgs/{}.png", name="image", caption="caption"):
    return [{name: image.format(number), caption: f"number {number}"} for number in range(10)]


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_text(path, rows, separator):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


LAYOUTS = {  # name: (what writes the table below the folder, what is opened below it)
    "strings": (lambda f: write_parquet(f / "a.parquet", records()), ""),
    "structs": (
        lambda f: pq.write_table(
            pa.table({
                "image": pa.array([{"bytes": None, "path": f"imgs/{n}.png"} for n in range(10)], IMAGE),
                "caption": [f"number {n}" for n in range(10)],
            }), f / "a.parquet",
        ), "",
    ),
    "absolute": (lambda f: write_parquet(f / "a.parquet", records(f"{f}/imgs/{{}}.png", "img_path", "TEXT")), ""),
    "beside the images": (lambda f: write_parquet(f / "imgs/a.parquet", records("{}.png")), "imgs"),
    "in a folder of its own": (lambda f: write_parquet(f / "meta/a.parquet", records()), "meta/a.parquet"),
    "open_clip's csv": (lambda f: write_text(f / "a.csv", records(name="filepath", caption="title"), "\t"), "a.csv"),
    "csv with commas": (lambda f: write_text(f / "a.csv", records(name="filename", caption="Caption"), ","), ""),
    "tsv": (lambda f: write_text(f / "a.tsv", records(), "\t"), "a.tsv"),
    "jsonl": (lambda f: write_lines(f / "a.jsonl", records()), "a.jsonl"),
    "imagefolder": (lambda f: write_lines(f / "imgs/metadata.jsonl", records("{}.png", "file_name", "text")), ""),
    "imagefolder's csv": (lambda f: write_text(f / "metadata.csv", records(name="file_name", caption="text"), ","), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_by_path(tmp_path, name):
    write, opened = LAYOUTS[name]
    images(tmp_path / "set/imgs")
    write(tmp_path / "set")
    assert numbers(open_captions(tmp_path / "set" / opened)) == SAME


def test_text_tables_keep_every_caption_as_it_is(tmp_path):
    images(tmp_path / "imgs", 4)
    captions = ["None", "12", "NA", "null"]
    write_text(tmp_path / "a.csv", [{"image": f"imgs/{n}.png", "caption": c} for n, c in enumerate(captions)], ",")
    assert [open_captions(tmp_path / "a.csv").caption(n) for n in range(4)] == [c.encode() for c in captions]


def test_semicolons_between_columns(tmp_path):
    images(tmp_path / "imgs")
    write_text(tmp_path / "table.csv", records(caption="caption"), ";")
    assert numbers(open_captions(tmp_path / "table.csv")) == [(n, n) for n in range(10)]


def test_a_missing_image_costs_its_row_and_is_named(tmp_path):
    images(tmp_path / "imgs", 9)
    write_parquet(tmp_path / "a.parquet", records())
    data = open_captions(tmp_path)
    list(CaptionBatches(data, as_pixels, 10, stop_step=1, quarantine=tmp_path / "bad.jsonl"))
    (record,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    found = {name: record[name] for name in ("shard", "index", "key", "reason")}
    assert found == {"shard": "a.parquet", "index": 9, "key": "imgs/9.png", "reason": "image file not found"}


def test_images_that_are_nowhere_are_told_at_once(tmp_path):
    write_parquet(tmp_path / "a.parquet", records())
    words = r"row 0 of .*a\.parquet, column 'image': 'imgs/0\.png' is in none of .* put the images there, or write"
    with pytest.raises(UserError, match=words):
        open_captions(tmp_path)
    write_parquet(tmp_path / "a.parquet", records("https://x.org/{}.png"))
    with pytest.raises(UserError, match=r"column 'image': 'https://x.org/0.png' is a URL, no image: .* img2dataset"):
        open_captions(tmp_path)
    write_parquet(tmp_path / "a.parquet", records("https://x.org/{}.png", "url"))
    with pytest.raises(UserError, match=r"its columns are url, caption: .* fetch the images of the column url with"):
        open_captions(tmp_path)


def several(path, captions):
    pq.write_table(
        pa.table({"image": pa.array([numbered(n) for n in range(len(captions))]), "captions": captions}), path
    )
    return open_captions(path)


def test_one_of_several_captions_is_drawn_by_seed_and_position(tmp_path):
    data = several(tmp_path / "a.parquet", [[f"{word} {n}" for word in "abcde"] for n in range(10)])
    assert data.caption(3) == [b"a 3", b"b 3", b"c 3", b"d 3", b"e 3"]

    def drawn(seed, start=0, workers=0):
        batches = CaptionBatches(data, as_pixels, 10, seed=seed, start_step=start, stop_step=20, workers=workers)
        return [batch["captions"] for batch in batches]

    whole = drawn(0)
    assert " ".join(whole[0]) == "c 3 b 5 c 6 e 7 c 9 e 8 b 1 c 4 a 0 a 2"
    assert drawn(0, start=7) == whole[7:] and drawn(0, workers=2) == whole
    assert drawn(1)[0] != whole[0]
    counts = [sum(caption.startswith(word) for batch in whole for caption in batch) for word in "abcde"]
    assert min(counts) > 25 and sum(counts) == 200
    assert data.first_captions(1) == ["a 0", "b 0", "c 0", "d 0", "e 0"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("several", [False, True])
def test_captions_of_every_type_of_text(tmp_path, kind, several):
    captions = [[f"number {n}"] if several else f"number {n}" for n in range(10)]
    table = {"image": [numbered(n) for n in range(10)], "caption": pa.array(captions)}
    table["caption"] = table["caption"].cast(pa.list_(kind) if several else kind)
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert numbers(open_captions(tmp_path / "a.parquet")) == SAME


def test_empty_captions_of_a_list_are_never_drawn(tmp_path):
    data = several(tmp_path / "a.parquet", [["", f"number {n}", " "] for n in range(10)])
    assert numbers(data) == SAME
    data = several(tmp_path / "b.parquet", [[f"number {n}"] for n in range(9)] + [[]])
    list(CaptionBatches(data, as_pixels, 10, stop_step=1, quarantine=tmp_path / "bad.jsonl"))
    (record,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (record["index"], record["reason"]) == (9, "empty caption")


def test_captions_in_fields(tmp_path):
    rows = [
        {"image": numbered(n), "meta": json.dumps({"caption": f"number {n}"}), "sentences": [{"raw": f"number {n}"}]}
        for n in range(10)
    ]
    write_parquet(tmp_path / "a.parquet", rows)
    for column in ("meta:caption", "sentences:raw"):
        assert numbers(open_captions(tmp_path / "a.parquet", caption_column=column)) == SAME
    with pytest.raises(
        UserError, match=r"holds list<.*not strings.*or a field of it as --caption-column sentences:FIELD"
    ):
        open_captions(tmp_path / "a.parquet", caption_column="sentences")
    with pytest.raises(UserError, match=r"row 0 of .*: no field alt; its text fields are caption: name one as"):
        open_captions(tmp_path / "a.parquet", caption_column="meta:alt")


def test_base64_is_named_and_its_row_has_a_short_key(tmp_path):
    text = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(60_000)).decode()
    write_parquet(tmp_path / "a.parquet", [{"image": text, "caption": "a"}])
    with pytest.raises(
        UserError, match=r"column 'image': '/9j/4A{75}' begins as base64 .*: decode the column"
    ) as error:
        open_captions(tmp_path / "a.parquet")
    assert len(str(error.value)) < 400
    images(tmp_path / "imgs")
    write_parquet(tmp_path / "b.parquet", [*records()[:9], {"image": text, "caption": "number 9"}])
    data = open_captions(tmp_path / "b.parquet")
    list(CaptionBatches(data, as_pixels, 10, stop_step=1, quarantine=tmp_path / "bad.jsonl"))
    (record,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    found = record["index"], record["key"], record["reason"]
    assert found == (9, "/9j/4" + "A" * 75, "image is base64, neither bytes nor a path")
