"""Names of encoders, taken apart and put together."""

import pytest

from vlm.encoders.naming import EncoderName, parse_encoder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("blind", ("blind", "", False)),
        ("runs/pretrain/encoder", ("levljepa", "runs/pretrain/encoder", False)),
        ("random:me/vit", ("levljepa", "me/vit", True)),
        ("hf:org/dino", ("hf", "org/dino", False)),
        ("random:timm:vit_tiny@128@w.safetensors", ("timm", "vit_tiny@128@w.safetensors", True)),
        ("hf:", ("levljepa", "hf:", False)),  # nothing is named
        ("C:/encoder", ("levljepa", "C:/encoder", False)),
    ],
)
def test_parts(name, parts):
    assert parse_encoder(name) == EncoderName(*parts)
    assert str(parse_encoder(name)) == name
    assert str(parse_encoder(name).trained) == name.removeprefix("random:")


def test_where_it_lies(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").touch()
    assert parse_encoder(f"hf:{tmp_path}").path == parse_encoder(f"random:{tmp_path}").path == tmp_path
    assert parse_encoder(f"timm:vit_tiny@{tmp_path}/w.safetensors").path == tmp_path / "w.safetensors"
    assert (
        str(parse_encoder(f"timm:vit@64@{tmp_path}/w.safetensors").absolute) == f"timm:vit@64@{tmp_path}/w.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_tiny").mkdir()  # has the name of an architecture
    (tmp_path / "me@work").mkdir()
    (tmp_path / "me@work/w").touch()
    assert str(parse_encoder("timm:vit_tiny").absolute) == "timm:vit_tiny"
    assert str(parse_encoder("timm:vit@64@me@work/w").absolute) == f"timm:vit@64@{tmp_path}/me@work/w"
    assert str(parse_encoder("random:hf:vit_tiny").absolute) == f"random:hf:{tmp_path}/vit_tiny"
    assert parse_encoder("~no-such-user/x").path is None
    for name in ("blind", "timm:vit_tiny", "hf:org/dino", f"{tmp_path}/no"):
        assert parse_encoder(name).path is None
