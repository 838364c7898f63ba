"""Folders of models: every change of a file that a loader reads is found, and what people edit is let through."""

import json
import os
import time
from hashlib import sha256

import pytest
from tiny.encoders import encoder_config

from vlm.apps.doctor.command import doctor
from vlm.apps.settings import DoctorSettings
from vlm.encoders.levljepa import load_encoder, new_encoder
from vlm.errors import UserError
from vlm.integrity import MANIFEST, verify, write_manifest


@pytest.fixture
def encoder(tmp_path):
    new_encoder(encoder_config(), seed=1).save(tmp_path / "encoder")
    return tmp_path / "encoder"


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def test_the_manifest_is_sizes_and_hashes(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("of people")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.json").write_text("hidden")
    write_manifest(tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text()) == {
        # printf '{}' | sha256sum
        "files": {"config.json": [2, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]}
    }
    assert verify(tmp_path)


def test_one_flipped_bit_is_refused_with_the_way_on(encoder):
    assert load_encoder(encoder)
    flip(encoder / "vision_encoder.safetensors")
    with pytest.raises(UserError) as error:
        load_encoder(encoder)
    assert str(error.value) == (
        f"{encoder}/vision_encoder.safetensors is missing or not what was written: copy {encoder} again or make it "
        f"anew; if you changed it on purpose, `vlm doctor {encoder} --accept` records it as it is now"
    )


HARMS = {
    "missing": lambda folder: (folder / "config.json").unlink(),
    "cut": lambda folder: os.truncate(folder / "text_encoder.safetensors", 1000),
    "longer": lambda folder: (folder / "config.json").open("a").write(" "),
    "a file more": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "a file more below": lambda folder: [(folder / "extra").mkdir(), (folder / "extra/chat.jinja").write_text("x")],
    "a link more": lambda folder: (folder / "adapter_config.json").symlink_to("/etc/hostname"),
    "a manifest of nothing": lambda folder: (folder / MANIFEST).write_text('{"files": {}}'),
    "a manifest that is torn": lambda folder: os.truncate(folder / MANIFEST, 40),
    "a manifest that is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "a manifest that is a pipe": lambda folder: [(folder / MANIFEST).unlink(), os.mkfifo(folder / MANIFEST)],
    "a manifest that leads nowhere": lambda folder: [(folder / MANIFEST).unlink(), (folder / MANIFEST).symlink_to("x")],
}


@pytest.mark.parametrize("harm", HARMS)
def test_refused(encoder, harm):
    HARMS[harm](encoder)
    with pytest.raises(UserError, match=f"if you changed it on purpose, `vlm doctor {encoder} --accept` records it"):
        load_encoder(encoder)


def test_let_through(encoder):
    (encoder / "README.md").write_text("my own words")
    (encoder / "curves.png").write_bytes(b"a picture")
    (encoder / "LICENSE").write_text("mine")
    (encoder / ".cache").mkdir()
    (encoder / ".cache" / "download.json").write_text("{}")
    assert load_encoder(encoder)
    flip(encoder / "vision_encoder.safetensors")
    (encoder / MANIFEST).unlink()  # as a folder that another tool wrote
    assert load_encoder(encoder)


def test_doctor_says_unverified_and_accepts_a_change(encoder, capsys):
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    assert doctor(DoctorSettings(what=(str(encoder),))) == 1
    assert f"FAIL  encoder: {encoder}/config.json is missing or not what was written: " in capsys.readouterr().out
    doctor(DoctorSettings(what=(str(encoder),), accept=True))
    recorded = f"OK    accept: 3 files recorded in {encoder}/{MANIFEST}; changed since the last time: config.json\n"
    verified = f"OK    files: are what was written, by the hashes in {MANIFEST}\n"
    assert capsys.readouterr().out.startswith(recorded + verified)
    assert load_encoder(encoder).config.mean == (0.5, 0.5, 0.5)
    (encoder / MANIFEST).unlink()
    doctor(DoctorSettings(what=(str(encoder),)))
    unverified = (
        f"warn  files: cannot be verified, there is no {MANIFEST}: `vlm doctor {encoder} --accept` records them"
    )
    assert capsys.readouterr().out.startswith(unverified)
    with pytest.raises(UserError, match=f"--accept is of a VLM or an encoder, which {encoder.parent} is not"):
        doctor(DoctorSettings(what=(str(encoder.parent),), accept=True))


def test_a_large_folder_is_hashed_once_until_it_changes(encoder, monkeypatch, tmp_path):
    """Also if somebody sets the time of a changed file back."""
    hashed, weights = [], encoder / "vision_encoder.safetensors"
    real = __import__("vlm.integrity", fromlist=["hashed"]).hashed
    monkeypatch.setattr("vlm.integrity.hashed", lambda folder, names: hashed.append(1) or real(folder, names))
    monkeypatch.setattr("vlm.integrity.WORTH_IT", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    now = time.time()
    monkeypatch.setattr("vlm.integrity.time.time", lambda: now + 10)  # the files are no more young
    for expected in (1, 1):
        assert verify(encoder) and len(hashed) == expected
    assert verify(encoder, afresh=True) and len(hashed) == 2
    times = weights.stat()
    flip(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"vision_encoder\.safetensors is missing or not what was written"):
        verify(encoder)
    assert len(hashed) == 3
    flip(weights)  # back
    assert verify(encoder) and len(hashed) == 4
    monkeypatch.setattr("vlm.integrity.time.time", lambda: now + 8 * 24 * 3600)
    assert verify(encoder) and len(hashed) == 5
    assert sha256(weights.read_bytes()).hexdigest() in (encoder / MANIFEST).read_text()
