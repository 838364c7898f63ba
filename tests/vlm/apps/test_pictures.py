"""Paths as people type them and as terminals paste a file that is dropped."""

import pytest
from PIL import Image

from vlm.apps.pictures import picture_paths, read_pictures
from vlm.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with four pictures, which is also the working folder."""
    for name in ("a.png", "my dog.png", "it's.png", "50%20.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("a.png", ["a.png"]),
        ("my dog.png", ["my dog.png"]),
        ("  HOME/my\\ dog.png ", ["HOME/my dog.png"]),
        ("'HOME/my dog.png' ", ["HOME/my dog.png"]),
        ('"HOME/my dog.png"', ["HOME/my dog.png"]),
        ("~/my\\ dog.png", ["HOME/my dog.png"]),
        ("~/my dog.png", ["HOME/my dog.png"]),
        ("~/a.png", ["HOME/a.png"]),
        ("file://HOME/my%20dog.png", ["HOME/my dog.png"]),
        ("file://HOME/my dog.png", ["HOME/my dog.png"]),
        ("file://localhostHOME/a.png", ["HOME/a.png"]),
        ("file://HOME/50%2520.png", ["HOME/50%20.png"]),
        ("50%20.png", ["50%20.png"]),
        ("it's.png", ["it's.png"]),
        ("'HOME/it'\\''s.png'", ["HOME/it's.png"]),
        ("a.png 'my dog.png' file://HOME/it's.png", ["a.png 'my dog.png' file://HOME/it's.png"]),
        ("a.png 'my dog.png' file://HOME/my%20dog.png", ["a.png", "my dog.png", "HOME/my dog.png"]),
        ("a.png gone.png", ["a.png", "gone.png"]),
        ("my gone dog.png", ["my gone dog.png"]),
        ("~/gone dog.png", ["HOME/gone dog.png"]),
    ],
)
def test_paths(home, typed, names):
    assert picture_paths(typed.replace("HOME", home)) == [name.replace("HOME", home) for name in names]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("my gone dog.png", "cannot read the image my gone dog.png: No such file or directory"),
        ("a.png gone.png", "cannot read the image gone.png: No such file or directory"),
        ("file://server/share/a.png", "the picture file://server/share/a.png lies on another machine"),
        ("", "no picture is named: give its path"),
        ("a\0b.png", "cannot read the image .*null"),
        (".", "cannot read the image .: Is a directory"),
    ],
)
def test_a_path_that_cannot_be_read_is_one_line(home, typed, message):
    with pytest.raises(UserError, match=message):
        read_pictures([typed])
