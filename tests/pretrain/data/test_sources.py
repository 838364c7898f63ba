"""pretrain.data.source: what people have on their disks, and what they type for it."""

import json
import os
from pathlib import Path

import pytest
from tiny.pictures import as_pixels, numbered
from tiny.tars import numbered_pairs, pair, write_tar

from pretrain.data.batches import CaptionBatches
from pretrain.data.naming import expand
from pretrain.data.source import open_captions
from pretrain.run import parse
from vlm.errors import UserError
from vlm.files import read_jsonl

pytestmark = pytest.mark.usefixtures("own_caches")


def numbers(data):
    """Every pair once, as (picture's number, caption's number); nothing may be replaced."""
    (batch,) = CaptionBatches(data, as_pixels, len(data), stop_step=1)
    pictures = [int(picture[0, 4, 4]) for picture in batch["images"]]
    return sorted(zip(pictures, (int(caption.split()[1]) for caption in batch["captions"])))


def same(stop, start=0):
    return [(number, number) for number in range(start, stop)]


def write_files(folder, entries):
    for name, content in entries:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def nested(folder):
    for shard in range(3):
        (folder / f"{shard:02d}").mkdir(parents=True)
        write_tar(folder / f"{shard:02d}/{shard:05d}.tar", numbered_pairs(range(10 * shard, 10 * shard + 10)))
    return folder


def test_a_folder_of_folders_of_tars(tmp_path, capsys):
    folder = nested(tmp_path / "set")
    data = open_captions(folder)
    assert data.names == ["00/00000.tar", "01/00001.tar", "02/00002.tar"]
    assert numbers(data) == same(30)
    assert open_captions(f"{folder}/*").fingerprint == open_captions(f"{folder}/*/*.tar").fingerprint
    cut = (folder / "01/00001.tar").read_bytes()
    (folder / "01/00001.tar").write_bytes(cut[: len(cut) // 2 // 512 * 512])
    capsys.readouterr()
    short = open_captions(folder)
    assert 20 < len(short) < 30
    assert "01/00001.tar is short: " in capsys.readouterr().err
    assert {record["shard"] for record in short.unusable()} == {"01/00001.tar"}


def test_train_is_taken_of_a_folder_with_splits_and_the_rest_is_told(tmp_path, capsys):
    for split, first in (("train", 0), ("val", 10)):
        (tmp_path / "set" / split).mkdir(parents=True)
        write_tar(tmp_path / "set" / split / "0.tar", numbered_pairs(range(first, first + 10)))
    assert numbers(open_captions(tmp_path / "set")) == same(10)
    assert "only train/ is read, not 1 more .tar files, as val/0.tar" in capsys.readouterr().err


def test_dots_in_keys(tmp_path):
    entries = [*numbered_pairs(range(4))]
    for number in range(4, 44):
        entries += pair(f"photo v1.{number:04d}", numbered(number), f"number {number}".encode())
    write_tar(tmp_path / "a.tar", entries)
    assert numbers(open_captions(tmp_path / "a.tar")) == same(44)


def test_extra_images_are_told(tmp_path, capsys):
    write_tar(tmp_path / "a.tar", [*pair("a", numbered(0), b"number 0"), ("a.seg.png", numbered(9))])
    assert numbers(open_captions(tmp_path / "a.tar")) == [(0, 0)]
    assert "1 images like a.seg.png are further fields of samples and not read" in capsys.readouterr().err


PATTERNS = {  # what is typed, and the pairs that come
    "{f}/{{00..02}}/*.tar": same(30),
    "{f}/0{{0,2}}/*.tar": same(10) + same(30, 20),
    "{f}/00/00000.tar::{f}/01/00001.tar": same(20),
    "{f}/00::{f}/02/": same(10) + same(30, 20),
    "file://{f}/00": same(10),
    "~/set/00": same(10),
    "~/set/{{01..02}}/*.tar": same(30, 10),
    "{f}/00::~/set/01": same(20),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(tmp_path, monkeypatch, pattern):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = nested(tmp_path / "set")
    assert numbers(open_captions(pattern.format(f=folder))) == PATTERNS[pattern]


def test_a_quoted_tilde_on_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parse(["--data", "~/a/*.tar", "--probe-every", "9", "--probe-data", "~/b", "--out", "~/run"])
    assert (config.data, config.probe_data, config.out) == ("/home/me/a/*.tar", "/home/me/b", "/home/me/run")


def test_expand(tmp_path):
    assert expand("a{08..10}.tar::b{x,y}") == ["a08.tar", "a09.tar", "a10.tar", "bx", "by"]
    literal = tmp_path / "a{1,2}.tar"
    literal.touch()
    assert expand(str(literal)) == [str(literal)]
    with pytest.raises(UserError, match="a brace is not closed"):
        expand("a{0..9.tar")


def documents(folder, form, captions):
    """img2dataset's images with KEY.json, in a tar or a folder."""
    entries = []
    for number, caption in enumerate(captions):
        content = json.dumps({"url": "https://x.org/1.jpg", "width": 16, **caption}).encode()
        entries += [(f"{number:09d}.png", numbered(number)), (f"{number:09d}.json", content)]
    if form == "tar":
        return write_tar(folder / "00000.tar", entries)
    return write_files(folder / "files", entries)


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_captions_in_json(tmp_path, form):
    source = documents(tmp_path, form, [{"caption": f"number {n}", "a": {"b": f"deep {n}"}} for n in range(5)])
    assert numbers(open_captions(source, caption_column="json:caption")) == same(5)
    assert open_captions(source, caption_column="json:a.b").caption(3) == b"deep 3"
    fields = r"text fields (are )?url, caption, a\.b: name one, as --caption-column json:caption"
    for column in (None, "json", "json:nothing"):
        with pytest.raises(UserError, match=fields):
            open_captions(source, caption_column=column)


def test_bad_json_costs_its_own_sample(tmp_path):
    captions = [{"caption": f"number {n}"} for n in range(4)] + [{"alt": "x"}, {"caption": None}, {"caption": 7}]
    data = open_captions(documents(tmp_path, "tar", captions), caption_column="json:caption")
    list(CaptionBatches(data, as_pixels, 7, stop_step=1, quarantine=tmp_path / "bad.jsonl"))
    records = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {(record["index"], record["reason"]) for record in records} == {
        (4, "no field caption"), (5, "empty caption"), (6, "caption is no text in the field caption")
    }  # fmt: skip


def plain(folder, suffix="txt"):
    """img2dataset's `files` output: folders of images, with a table and statistics beside each."""
    for number in range(20):
        place = folder / f"{number // 10:05d}"
        write_files(place, [(f"{number:09d}.PNG", numbered(number)), (f"{number:09d}.{suffix}", b"number %d" % number)])
    for shard in range(2):
        write_files(folder, [(f"{shard:05d}.parquet", b"no table"), (f"{shard:05d}_stats.json", b"{}")])
    return folder


@pytest.mark.parametrize("suffix", ["txt", "caption"])
def test_a_folder_of_images_and_texts(tmp_path, suffix):
    data = open_captions(plain(tmp_path / "set", suffix))
    assert numbers(data) == same(20)
    assert (data.counts.tolist(), data.identify(13), data.key(13)) == ([10, 10], ("00001", 3), "00001/000000013")
    before = data.fingerprint
    (tmp_path / "set").rename(tmp_path / "moved")
    assert open_captions(tmp_path / "moved").fingerprint == before
    (tmp_path / f"moved/00001/000000019.{suffix}").write_text("another")
    assert open_captions(tmp_path / "moved").fingerprint != before


def test_what_a_folder_lacks_is_listed(tmp_path, capsys):
    folder = plain(tmp_path / "set")
    write_files(folder, [("lone.jpg", b"x"), ("text.txt", b"x"), ("old.bmp", b"x"), ("README.md", b"x")])
    write_files(
        folder,
        [
            (".hidden.jpg", b"x"),
            ("both.jpg", b"x"),
            ("both.gif", b"x"),
            ("two.jpg", b"x"),
            ("two.png", b"x"),
            ("two.txt", b"x"),
        ],
    )
    data = open_captions(folder)
    assert {(record["shard"], record["key"], record["reason"]) for record in data.unusable()} == {
        (".", "lone", "no caption"), (".", "both", "no caption"), (".", "text", "no image"),
        (".", "old", "no .bmp images are read"),
        (".", "two", "two images"),
    }  # fmt: skip
    assert "5 of 25 samples of " in capsys.readouterr().err
    assert numbers(data) == same(20)


REFUSED = {  # what is in the folder, and the words of the one line
    "no captions": (
        ["a.jpg", "b.jpg"],
        "pair: 2 x no caption; its files end in jpg; put KEY.txt beside",
    ),
    "no images": (["a.txt"], r"no table and no image \(it has .txt\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_without_pairs(tmp_path, name):
    files, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        open_captions(write_files(tmp_path / "set", [(file, b"x") for file in files]))


def test_names_that_are_no_utf8(tmp_path, capfd):
    """A bad pair is listed, and told, under a name that no encoding takes; the others are read all the same."""
    name = os.fsdecode(b"caf\xe9")
    folder = write_files(tmp_path / name, [(f"{name}.png", numbered(5)), (f"{name}.txt", b"number 5")])
    write_files(folder, [(f"{name} 2.png", numbered(6)), (f"{name} 3.png", b"x"), (f"{name} 3.txt", b"x")])
    data = open_captions(folder)
    list(CaptionBatches(data, as_pixels, 2, stop_step=1, quarantine=tmp_path / "bad.jsonl", bad_ratio=1.0))
    assert {record["key"] for record in read_jsonl(tmp_path / "bad.jsonl")} == {f"{name} 2", f"{name} 3"}
    assert len(data.fingerprint) == 64 and "1 of 3 samples of " in capfd.readouterr().err
    tar = tmp_path / f"{name}.tar"
    write_tar(tar, [*numbered_pairs(range(2)), ("lone.txt", b"x")])
    shards = open_captions(tar)
    assert [(record["shard"], record["reason"]) for record in shards.unusable()] == [(tar.name, "no image")]


def test_missing_shards_of_a_brace_pattern_are_an_error(tmp_path):
    folder = nested(tmp_path / "set")
    with pytest.raises(UserError, match=r"2 of the 3 files that it names do not exist, the first is .*/00001\.tar"):
        open_captions(f"{folder}/00/{{00000..00002}}.tar")
    with pytest.raises(UserError, match=r"names .*00000.tar twice"):
        open_captions(f"{folder}/00::{folder}/*/00000.tar")


def test_nothing_is_written_beside_the_data(tmp_path):
    folder = plain(tmp_path / "set")
    before = sorted(Path(folder).rglob("*"))
    open_captions(folder)
    assert sorted(Path(folder).rglob("*")) == before


@pytest.mark.parametrize("columns", [{}, {"caption_column": "json:caption"}])
@pytest.mark.parametrize("size", [3, 20_000_000])
def test_a_table_in_json_beside_its_images_is_advised_by_name(tmp_path, columns, size):
    folder = write_files(tmp_path / "set", [(f"pics/{number}.png", numbered(number)) for number in range(3)])
    rows = [{"image": f"pics/{number}.png", "caption": f"number {number}"} for number in range(3)]
    (folder / "c.json").write_text(json.dumps(rows) + " " * (size - 3))
    with pytest.raises(UserError, match=r"c\.json is the caption of no image: .* --data (\S+)$") as error:
        open_captions(folder, **columns)
    assert str(error.value).endswith(f"--data {folder}/c.json")
    if size == 3:
        assert numbers(open_captions(f"{folder}/c.json")) == same(3)
        (folder / "pics/0.json").write_text(json.dumps({"alt": "a"}))
        with pytest.raises(UserError, match=r"; pics/0\.json has the text fields alt: name one"):
            open_captions(folder)
