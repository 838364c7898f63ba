"""A disk that refuses: one line with the path, the bytes that are needed and what is there, and nothing is lost."""

import errno
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from tiny.encoders import encoder_config

from vlm.encoders.levljepa import load_encoder, new_encoder
from vlm.errors import UserError, user_message, writing
from vlm.files import append_jsonl, read_json, write_json
from vlm.room import require_room


@contextmanager
def files_of_at_most(size: int):
    """The limit that `ulimit -f` sets, for this process and as long as the context lasts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", [write_json, append_jsonl])
def test_small_files_stay_as_they_were(tmp_path, write):
    file = tmp_path / "file.jsonl"
    write(file, {"old": 1})
    before = entries(tmp_path)
    limit = len(before["file.jsonl"]) + 4
    message = (
        rf"cannot write {file} \(File too large; \d+ bytes needed, {limit} bytes a file are allowed by ulimit -f\): "
    )
    with files_of_at_most(limit), pytest.raises(UserError, match=message + "what was there before is untouched"):
        write(file, {"new": "longer than it was"})
    assert entries(tmp_path) == before


def test_an_encoder_stays_as_it_was(tmp_path):
    new_encoder(encoder_config(), seed=1).save(tmp_path / "encoder")
    before = entries(tmp_path)
    message = r"cannot write .*/encoder \(File too large; [\d,]+ bytes needed, 5,000 bytes a file are allowed by ulimit"
    with files_of_at_most(5000), pytest.raises(UserError, match=message):
        new_encoder(encoder_config(), seed=2).save(tmp_path / "encoder")
    assert entries(tmp_path) == before
    load_encoder(tmp_path / "encoder")


def by_safetensors(file):
    save_file({"w": torch.zeros(10_000)}, file)


def by_tokenizers(file):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={f"word-{number}": number for number in range(1000)}, merges=[])).save(str(file))


def by_matplotlib(file):
    from matplotlib.figure import Figure

    Figure(dpi=300).savefig(file, format="png")


def by_pillow(file):
    from PIL import Image

    Image.effect_noise((256, 256), 50).save(file, format="PNG")


@pytest.mark.parametrize("library", [by_safetensors, by_tokenizers, by_matplotlib, by_pillow])
def test_every_library_that_writes(tmp_path, library):
    message = (
        r"^cannot write .*/file \(File too large; 7 bytes needed, 1,000 bytes a file are allowed by ulimit -f\): go$"
    )
    with files_of_at_most(1000), pytest.raises(UserError, match=message), writing(tmp_path / "file", "go", needed=7):
        library(tmp_path / "file")


def test_a_quota_does_not_speak_of_the_disk(tmp_path):
    with pytest.raises(UserError) as error, writing(tmp_path / "file", "make room"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert str(error.value) == (
        f"cannot write {tmp_path}/file (Disk quota exceeded; your quota on {tmp_path} is used up): make room"
    )


def test_a_file_that_was_open_already_is_one_line():
    assert user_message(OSError(errno.ENOSPC, "No space left on device")) == (
        "cannot write (No space left on device): make room, then start the same command again"
    )


def test_a_run_that_cannot_save_is_refused_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vlm.room.free_bytes", lambda folder: 1000)
    require_room(tmp_path, {"checkpoint": 600, "vlm": 400}, later=0)
    assert capsys.readouterr().err == ""
    require_room(tmp_path, {"checkpoint": 600, "vlm": 400}, later=1)
    assert capsys.readouterr().err == f"warning: {tmp_path} will grow by 1,001 bytes, 1,000 bytes are free\n"
    with pytest.raises(UserError) as error:
        require_room(tmp_path, {"checkpoint": 600, "vlm": 401})
    assert str(error.value) == (
        f"{tmp_path} has no room: 600 (checkpoint) + 401 (vlm) = 1,001 bytes needed, "
        "1,000 bytes free: make room, give another folder, or set LEVLM_DISK_CHECK=0 to go on anyway"
    )
    with (
        files_of_at_most(500),
        pytest.raises(UserError, match="hold a file of 600 bytes, 500 bytes a file are allowed"),
    ):
        require_room(tmp_path, {"checkpoint": 600}, largest=600)
    monkeypatch.setenv("LEVLM_DISK_CHECK", "0")
    require_room(tmp_path, {"checkpoint": 600, "vlm": 401})


def test_a_record_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "file", [1])
    with files_of_at_most(2), pytest.raises(UserError):
        write_json(tmp_path / "file", [1, 2, 3])
    assert read_json(tmp_path / "file") == [1] and len(entries(tmp_path)) == 1
