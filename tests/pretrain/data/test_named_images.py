"""pretrain.data.table: which files the rows of a table may name."""

import os

import pytest

from pretrain.data.captions import BadSample
from pretrain.data.table import named_image


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
