"""scripts/prepare_manifest.py: what it says of tars, and that it never says to have compared what it has not."""

import prepare_manifest
import pytest
from tiny.pictures import numbered
from tiny.tars import write_numbered_shards

from vlm.errors import UserError


@pytest.fixture
def data(tmp_path):
    """`tars`, three shards of 2, 3 and 1 pairs; and `pictures`, a folder of two images with text files."""
    write_numbered_shards(tmp_path / "tars", [2, 3, 1])
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        (tmp_path / f"pictures/{number}.png").write_bytes(numbered(number))
        (tmp_path / f"pictures/{number}.txt").write_text(f"number {number}")
    return tmp_path


@pytest.fixture
def say(data, monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["prepare_manifest.py", *arguments, "--cache", str(data / "cache")])
        prepare_manifest.main()
        return capsys.readouterr().out

    return run


def test_tars_are_listed_and_compared(data, say):
    tars = str(data / "tars")
    assert say(tars, "--sha256").startswith(f"{tars}: 6 pairs in 3 shards, fingerprint ")
    assert say(tars, "--verify") == f"{tars}: 6 pairs in 3 shards\nevery shard equals its SHA-256\n"


@pytest.mark.parametrize("flag", ["--verify", "--sha256"])
def test_what_has_no_manifest_is_not_said_to_be_compared(data, say, flag):
    """It printed "this format needs no manifest" and ended with exit code 0."""
    tars, pictures = str(data / "tars"), str(data / "pictures")
    assert say(pictures) == f"{pictures}: 2 rows; this format needs no manifest\n"
    said = f"{flag}: {pictures} is no set of tars, and only their SHA-256 is kept: leave {flag} away"
    with pytest.raises(UserError, match=said):
        say(pictures, flag)
    say(tars, "--sha256")
    with pytest.raises(UserError, match=said):
        say(f"{tars}=0.5,{pictures}=0.5", flag)
