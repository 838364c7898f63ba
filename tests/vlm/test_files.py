"""Hashes of files, JSON lines that were cut off, and directories that appear whole or not at all."""

import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlm.directories import atomic_directory, recover
from vlm.errors import UserError
from vlm.files import (
    append_jsonl,
    file_sha256,
    read_json,
    read_jsonl,
    read_records,
    write_file,
    write_json,
)


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "long").write_bytes(b"a" * 10**7)  # more than one block
    assert file_sha256(tmp_path / "long") == "01f4a87c04b40af59aadc0e812293509709c9a8763a60b7f9e19303322f8b03c"


def test_a_directory_is_replaced_whole_or_kept(tmp_path):
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "folder") as partial:
            (partial / "file").write_text(text)
    with pytest.raises(KeyError), atomic_directory(tmp_path / "folder") as partial:
        (partial / "file").write_text("half")
        raise KeyError
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("file")] == [("file", "new")]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664), (0o077, 0o700, 0o600)]
)
def test_who_may_read_a_directory_is_what_the_umask_says(tmp_path, umask, folder, file):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch(0o400)
    before = os.umask(umask)
    try:
        with atomic_directory(tmp_path / "folder") as partial:
            (partial / "inner").mkdir()
            for name in ("own", "inner/own"):
                save_file({"w": torch.zeros(1)}, partial / name)  # which is for the owner alone
            (partial / "link").symlink_to(elsewhere)
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "folder" / name).stat().st_mode & 0o777 for name in ("", "inner", "own", "inner/own")}
    assert modes == {"": folder, "inner": folder, "own": file, "inner/own": file}
    assert elsewhere.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(("fails", "content"), [(0, "old"), (1, "old"), (2, "new")])
def test_without_an_exchange_the_older_directory_survives_a_failing_rename(tmp_path, monkeypatch, fails, content):
    def rename(*names):
        calls.append(names)
        if len(calls) - 1 == fails:
            raise OSError("no")
        real(*names)

    calls, real = [], os.rename
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    monkeypatch.setattr("vlm.directories._exchange", lambda *names: False)  # as on NFS
    monkeypatch.setattr("os.rename", rename)
    expected = pytest.raises(OSError, match="no") if fails < 2 else nullcontext()
    with expected, atomic_directory(tmp_path / "folder") as partial:
        (partial / "file").write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("file")] == [("file", content)]


def test_a_replaced_directory_is_never_gone(tmp_path):
    """A reader that looks all the time; where two renames were needed it would meet the gap."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("0")
    met, done = set(), threading.Event()

    def look():
        while not done.is_set():
            met.add((tmp_path / "folder").exists())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for number in range(50):
            with atomic_directory(tmp_path / "folder") as partial:
                (partial / "file").write_text(f"{number}")
        done.set()
        looking.result()
    assert met == {True} and (tmp_path / "folder" / "file").read_text() == "49"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_a_directory_is_replaced_and_its_target_left_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").symlink_to("elsewhere")
    with atomic_directory(tmp_path / "folder") as partial:
        (partial / "file").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "folder"]
    assert (tmp_path / "folder" / "file").read_text() == "new" and not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", [".", "..", "mount"])
def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "mount")
    with pytest.raises(UserError, match=f"{name} cannot be replaced, it "), atomic_directory(name):
        pytest.fail("the work has begun")
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "file"]


def test_what_a_kill_left_is_finished(tmp_path):
    """Kills between the two renames, after them, and before them."""
    for name in (".lost.abc_1234.old", ".kept.abc_1234.old", "kept", ".half.abc_1234.tmp", ".users.old", ".own.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    recover(tmp_path)
    expected = {"lost": ".lost.abc_1234.old", "kept": "kept", ".users.old": ".users.old", ".own.tmp": ".own.tmp"}
    assert {path.name: (path / "file").read_text() for path in tmp_path.iterdir()} == expected


def test_what_a_killed_writer_left_goes_and_a_living_ones_stays(tmp_path):
    left = tmp_path / ".folder.abc_1234.tmp"
    for name in (".folder.abc_1234.tmp", ".other.abc_1234.tmp", ".folder.mine.tmp"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    with atomic_directory(tmp_path / "folder") as first:
        os.utime(first, (0, 0))
        with atomic_directory(tmp_path / "folder") as second:
            assert first.is_dir() and not left.exists()
            (second / "file").write_text("second")
        (first / "file").write_text("first")
    assert (tmp_path / "folder/file").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".folder.mine.tmp", ".other.abc_1234.tmp", "folder"]


def test_a_torn_last_line_is_left_out_of_our_own_files_alone(tmp_path):
    file = tmp_path / "lines.jsonl"
    for number in range(3):
        append_jsonl(file, {"n": number})
    file.write_bytes(file.read_bytes()[:-3])
    assert list(read_jsonl(file)) == [{"n": 0}, {"n": 1}]
    with pytest.raises(UserError, match=r"lines\.jsonl, line 3 is not JSON: the file was edited, cut off or damaged"):
        read_records(file)
    file.write_text('{"n": 0}\n{"n": 1}')  # whole, without a newline at its end
    assert read_records(file) == [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_others_are_json_or_lines_in_any_unicode(tmp_path, encoding):
    file = tmp_path / "others"
    for text in ('[{"n": "ä"}, {"n": 1}]', '{"n": "ä"}\n\n{"n": 1}\r\n', '{\n "n": "ä"\n}\n{\n "n": 1\n}'):
        file.write_text(text, encoding=encoding)
        assert read_records(file) == [{"n": "ä"}, {"n": 1}]
    file.write_text('{"n": "ä"}', encoding=encoding)
    assert read_records(file) == read_json(file) == {"n": "ä"}
    file.write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match="others is empty"):
        read_records(file)


def test_what_is_no_text_or_not_there(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="binary is not JSON lines"):
        list(read_jsonl(tmp_path / "binary"))
    with pytest.raises(UserError, match="none does not exist"):
        list(read_jsonl(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(read_jsonl(tmp_path))


def test_names_that_are_no_utf8_are_written_and_read_back(tmp_path):
    """Python has a byte that is no UTF-8 as a lone surrogate, which no encoding takes."""
    name = os.fsdecode(b"caf\xe9 \xc3\xa9 \\udce9.jpg")
    write_json(tmp_path / "a.json", {name: name})
    append_jsonl(tmp_path / "b.jsonl", {name: name})
    assert read_json(tmp_path / "a.json") == {name: name} and list(read_jsonl(tmp_path / "b.jsonl")) == [{name: name}]
    write_file(tmp_path / "c.md", name)
    assert (tmp_path / "c.md").read_text(encoding="utf-8") == "caf\\udce9 é \\udce9.jpg"


def test_a_link_to_another_disk_is_no_mount_point(tmp_path):
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        link = tmp_path / "vlm"
        link.symlink_to(elsewhere)
        with atomic_directory(link) as folder:
            (folder / "new").write_text("whole")
        assert (tmp_path / "vlm" / "new").read_text() == "whole"
    finally:
        shutil.rmtree(elsewhere)
