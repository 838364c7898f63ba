"""The folder of uploaded pictures: what is kept, and what is deleted first."""

import os
import time

from vlm.apps import web_uploads
from vlm.apps.web_uploads import Uploads


def write(path, age: float, size: int = 1) -> str:
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    os.utime(path, times=(time.time() - age,) * 2)
    return str(path)


def test_the_old_and_the_many_are_deleted_with_their_folders_but_no_example(tmp_path, monkeypatch):
    monkeypatch.setattr(web_uploads, "KEPT_FILES", 2)
    example = write(tmp_path / "e/example.jpg", 9_000)
    known = {example, str(tmp_path / "c/a.png"), str(tmp_path / "a/a.png")}
    uploads = Uploads(tmp_path, 1, [known])
    for name, age in (("a", 10), ("b", 20), ("c", 30), ("d", 3_700)):
        write(tmp_path / name / "a.png", age)
    uploads.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "e"]
    assert known == {example, str(tmp_path / "a/a.png")}


def test_the_bytes_of_all_are_bounded(tmp_path):
    uploads = Uploads(tmp_path, 10)  # of which 50 may be kept
    for name, age in (("a", 10), ("b", 20), ("c", 30)):
        write(tmp_path / name / "a.png", age, 200)
    uploads.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
