"""vlm.walking: every file below a folder, through links, or an error."""

import os

import pytest

from vlm.errors import UserError
from vlm.walking import walk


def test_links_are_followed_into_each_folder_once(tmp_path):
    for name in ("set/a/1.txt", "elsewhere/2.txt", "set/.hidden/3.txt", "set/.4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "set/more").symlink_to("../elsewhere")
    (tmp_path / "set/again").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/round").symlink_to("../set")
    assert sorted(walk(tmp_path / "set")) == ["a/1.txt", "again/2.txt"]
    (tmp_path / "link").symlink_to("set")
    assert sorted(walk(tmp_path / "link")) == ["a/1.txt", "again/2.txt"]


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, call):
    """As another user's folder of mode 700 or 744; root may read all."""

    def refusing(path, *rest, **options):
        if str(path) == str(tmp_path / "set/locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **options)

    (tmp_path / "set/locked").mkdir(parents=True)
    real = getattr(os, call)
    monkeypatch.setattr(f"os.{call}", refusing)
    words = f"{tmp_path}/set/locked cannot be read: Permission denied; let this user read it, or move it out of "
    with pytest.raises(UserError, match=words):
        list(walk(tmp_path / "set"))
