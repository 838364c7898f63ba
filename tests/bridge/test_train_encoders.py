"""The training command on encoders of Hugging Face's classes: what it says, saves and answers."""

import pytest
from tiny.stock_vits import write_stock_vit

import vlm
from vlm.errors import UserError
from vlm.files import read_json


@pytest.mark.parametrize(
    ("kind", "flags", "line", "slots"),
    [
        ("siglip", (), "siglip_vision_model, hidden state -1 (after the final norm), 24 pixels, 9 tokens", 9),
        ("clip", ("--image-size", "32"), "clip_vision_model, hidden state -2, 32 pixels, 16 tokens", 16),
        (
            "dinov2_registers",
            ("--feature-layer", "-2"),
            "hidden state -2, 24 pixels, 13 tokens, 4 of them registers",
            13,
        ),
    ],
)
def test_a_bridge_on_another_encoder(training, tmp_path, capsys, kind, flags, line, slots):
    encoder = f"hf:{write_stock_vit(tmp_path / kind, kind)}"
    kept = ("--features", str(tmp_path / "features"))
    training.run(tmp_path / "run", "--encoder", encoder, *flags, *kept)
    assert line in capsys.readouterr().err
    losses = training.losses(tmp_path / "run")
    assert losses[-1] < losses[0]
    model = vlm.load(tmp_path / "run/vlm")
    assert model.prompt_ids("Is it red?").count(model.processor.image_token_id) == slots
    assert isinstance(model.answer(training.root / "gqa/images/0.jpg", "Is it red?"), str)
    with pytest.raises(UserError, match="another encoder or of other preprocessing"):
        training.run(
            tmp_path / "other", "--encoder", encoder, "--feature-layer", "1", *flags[: -2 if "-2" in flags else None],
            *kept,
        )  # fmt: skip
    assert read_json(tmp_path / "run/config.json")["encoder"] == encoder


def test_flags_of_the_encoder_are_not_for_init(training, tmp_path):
    with pytest.raises(UserError, match="--init brings its own encoder: leave out --image-size, --feature-layer"):
        training.run(tmp_path / "run", "--init", "x", "--image-size", "32", "--feature-layer", "-2")
