"""scripts/checks/archives.py on crafted archives: unpacked whole or not at all, and nothing outside."""

import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from checks.archives import unpack

from vlm.errors import UserError


def make_zip(path: Path, files: dict[str, bytes], attributes: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = attributes, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".zip"
    }


def test_unpacked_once_and_beside_what_is_there(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.jpg").write_bytes(b"mine")
    archive = make_zip(tmp_path / "images.zip", {"images/": b"", "images/1.jpg": b"one", "deep/er/2.jpg": b"two"})
    assert unpack(archive, tmp_path) == 2
    assert tree(tmp_path) == {"images/0.jpg": b"mine", "images/1.jpg": b"one", "deep/er/2.jpg": b"two"}
    assert unpack(archive, tmp_path) == 0
    (tmp_path / "images/1.jpg").write_bytes(b"other")
    with pytest.raises(UserError, match=r"1\.jpg is in the way"):
        unpack(archive, tmp_path)
    assert (tmp_path / "images/1.jpg").read_bytes() == b"other"


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"a/1": b"one" * 50, "a/2": b"two", "b/3": b"three"})
    opened = []
    original = zipfile.ZipFile.open

    def dies_at_the_second(self, member, *arguments, **options):
        opened.append(member.filename)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return original(self, member, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path)
    assert not (tmp_path / "a").exists()
    assert unpack(archive, tmp_path) == 3
    assert opened == ["a/1", "a/2", "a/2", "b/3"]
    assert not list(tmp_path.glob(".*"))
    assert tree(tmp_path) == {"a/1": b"one" * 50, "a/2": b"two", "b/3": b"three"}


def test_another_version_of_an_archive_takes_nothing_over(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"a/1": b"old", "a/2": b"old"})
    with monkeypatch.context() as patch:
        patch.setattr("checks.archives._place", lambda *_: None)
        unpack(archive, tmp_path)  # as if killed before anything was moved
    assert unpack(make_zip(archive, {"a/1": b"new"}), tmp_path) == 1
    assert tree(tmp_path) == {"a/1": b"new"}


HOSTILE = {
    "traversal": ({"../evil": b"x"}, 0, "'../evil' leads out of the folder"),
    "absolute": ({"/tmp/evil": b"x"}, 0, "'/tmp/evil' leads out of the folder"),
    "backslashes": ({"a\\..\\..\\evil": b"x"}, 0, "leads out of the folder"),
    "drive": ({"C:evil": b"x"}, 0, "'C:evil' leads out of the folder"),
    "symlink": ({"link": b"/etc/passwd"}, (stat.S_IFLNK | 0o777) << 16, "'link' is a link or a device"),
    "bomb": ({"fine": b"x", "zeros": bytes(4_000_000)}, 0, "more than 200-fold"),
    "twice": ({"a": b"x", "./a": b"y"}, 0, "twice"),
    "empty": ({}, 0, "holds no files"),
}


@pytest.mark.parametrize(("files", "attributes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused_before_a_byte_is_written(tmp_path, files, attributes, message):
    folder = tmp_path / "data"
    folder.mkdir()
    archive = make_zip(folder / "a.zip", files, attributes)
    with pytest.raises(UserError, match=message):
        unpack(archive, folder)
    assert tree(folder) == {} and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_cut_and_damaged_archives_leave_nothing(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"1": b"one", "2": bytes(range(256)) * 40})
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"a\.zip is damaged or cut short"):
        unpack(archive, tmp_path)
    flipped = bytearray(whole)
    flipped[whole.index(b"2", 40) + 60] ^= 255
    archive.write_bytes(flipped)
    with pytest.raises(UserError, match=r"a\.zip is damaged or cut short"):
        unpack(archive, tmp_path)
    assert not (tmp_path / "1").exists() and not (tmp_path / "2").exists()


def test_a_full_disk_is_announced(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"1": b"one"})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 8, 2))
    with pytest.raises(UserError, match=r"needs 3 bytes in .* and 2 are free"):
        unpack(archive, tmp_path)
    assert not (tmp_path / "1").exists()
