"""pretrain.data.table_images: which files the rows of a table may name."""

import base64
import os

import pytest

from pretrain.data.captions import BadSample
from pretrain.data.table_images import named_image, short_path


def test_rows_name_regular_files_inside_their_folder(tmp_path):
    data = tmp_path / "set"
    (data / "images").mkdir(parents=True)
    (data / "images/a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"s")
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(data / "fifo.png")
    assert named_image("images/a.png", [data]) == named_image(f"file://{data}/images/a.png", [data]) == b"a"
    assert named_image("images/a.png", [data / "meta"], data) == b"a"
    for name in ("/dev/zero", "/etc/passwd", "/etc/nothing", "../secret.png", "link.png", str(tmp_path / "secret.png")):
        with pytest.raises(BadSample, match="image lies outside of the data set"):
            named_image(name, [data])
    assert named_image(str(tmp_path / "secret.png"), [data, tmp_path]) == b"s"
    with pytest.raises(OSError, match="it is a FIFO, not a regular file"):
        named_image("fifo.png", [data])


def test_what_cannot_be_a_path_is_missing_and_base64_is_named(tmp_path):
    with pytest.raises(BadSample, match="image file not found"):
        named_image("n" * 5000, [tmp_path])
    for image in (b"\xff\xd8\xff\xe0" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(60_000)):
        text = base64.b64encode(image).decode()
        for given in (text, base64.encodebytes(image).decode(), f"data:image/png;base64,{text}"):
            with pytest.raises(BadSample, match="image is base64, neither bytes nor a path"):
                named_image(given, [tmp_path])
    assert short_path("a" * 255) == "a" * 255 and short_path("a" * 256) == "a" * 80
