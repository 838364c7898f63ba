"""vlm.reading: regular files alone, inside the folders that are given; vlm.files with hostile JSON."""

import os
import socket

import pytest

from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, read_records
from vlm.images import load_image
from vlm.reading import inside, read_regular


def special(folder):
    """Files that are none, and what is said of each."""
    os.mkfifo(folder / "fifo")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "nested").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.relpath(folder / "socket"))
    listening.close()
    return {"fifo": "it is a FIFO, not a regular file", "zero": "it is a device, not a regular file",
            "nested": "Is a directory", "socket": "it is a socket, not a regular file"}  # fmt: skip


def test_only_regular_files_are_opened(tmp_path):
    for name, said in special(tmp_path).items():
        with pytest.raises(OSError) as told:
            read_regular(tmp_path / name, 10)
        assert told.value.strerror == said
        for read in (read_json, read_records, load_image):
            with pytest.raises(UserError, match=said):
                read(tmp_path / name)


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "a").write_bytes(bytes(2**20))
    assert len(read_regular(tmp_path / "a", 2**20)) == 2**20
    with pytest.raises(OSError, match="it is larger than the 1 MiB that are read"):
        read_regular(tmp_path / "a", 2**20 - 1)


def test_a_file_that_grows_is_read_up_to_its_limit(tmp_path, monkeypatch):
    content = bytes(range(250))
    (tmp_path / "a").write_bytes(content)
    found = os.fstat

    def smaller(handle):  # what it was when its size was asked for
        before = list(found(handle))
        before[6] = 100
        return os.stat_result(before)

    monkeypatch.setattr(os, "fstat", smaller)
    assert read_regular(tmp_path / "a", 1000) == content
    with pytest.raises(OSError, match="it is larger than"):
        read_regular(tmp_path / "a", 249)


def test_inside_follows_links(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/out").symlink_to(tmp_path / "else")
    (tmp_path / "by").symlink_to(tmp_path / "set")
    names = ("set/a.png", "by/a.png", "set/../else", "set/out", "settled", "/etc/passwd")
    assert [inside(tmp_path / name, [tmp_path / "set"]) for name in names] == [True, True, False, False, False, False]
    assert inside(tmp_path / "else", [tmp_path / "set", tmp_path])


def test_a_snapshot_of_the_hubs_cache_holds_its_blobs(tmp_path):
    snapshot = tmp_path / "datasets--a--b/snapshots/0"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--a--b/blobs").mkdir()
    (snapshot / "1.jpg").symlink_to("../../blobs/x")
    (snapshot / "2.jpg").symlink_to("../../../x")
    assert inside(snapshot / "1.jpg", [snapshot]) and not inside(snapshot / "2.jpg", [snapshot])


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "1" * 5_000, "", "\udcff", '{"a": '])
def test_hostile_json_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for read in (read_json, read_records):
        with pytest.raises(UserError, match=r"a\.json"):
            read(tmp_path / "a.json")


def test_a_line_that_is_no_object_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2 holds no JSON object"):
        list(read_jsonl(tmp_path / "a.jsonl"))
