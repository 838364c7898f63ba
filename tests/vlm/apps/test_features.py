"""`vlm features`: the numbers in its picture, and the command."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny.encoders import nine_patch_encoder

from vlm.apps.attention import attended
from vlm.apps.features import chosen_patch
from vlm.apps.patch_tokens import Features, encoder_features, vlm_features
from vlm.llava.model import load


@pytest.fixture
def encoder_folder(tmp_path):
    nine_patch_encoder().save(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def test_cosines_are_with_a_patch_of_the_first_image():
    tokens = torch.zeros(2, 4, 3)
    tokens[0] = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [-1, 0, 0]])
    tokens[1] = torch.tensor([[0.0, 5, 0], [0, 3, 4], [0, -1, 0], [1, 0, 0]])
    cosines = Features(torch.zeros(2, 3, 8, 8), tokens).cosines(0, 1)
    assert cosines[0].tolist() == [[0, 1], [0, 0]]
    assert cosines[1].flatten().tolist() == pytest.approx([1, 0.6, -1, 0])


def test_a_vlm_and_its_encoder_have_the_same_features(folder, picture):
    of_encoder = encoder_features(nine_patch_encoder(), [picture])
    of_vlm = vlm_features(load(folder, "cpu", torch.float32), [picture])
    assert of_vlm.tokens.shape == (1, 9, of_encoder.tokens.shape[2])
    assert torch.allclose(of_vlm.tokens, of_encoder.tokens, atol=1e-3)
    assert torch.allclose(of_vlm.shown, of_encoder.shown, atol=1e-6)


def test_attention_is_that_of_one_pass_over_everything(folder, picture):
    vlm = load(folder, "cpu", torch.float32)
    found = attended(vlm, picture, "What is it?", max_new_tokens=3)
    assert found.text == vlm.answer(picture, "What is it?", 3)
    inputs = vlm.inputs(picture, "What is it?")
    prompt = inputs["input_ids"]
    ids = vlm.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    vlm.model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        layers = vlm.model(**whole, output_attentions=True).attentions  # [1, heads, T, T] each
    rows = torch.stack(layers).mean((0, 1, 2))[prompt.shape[1] - 1 : -1]
    expected = rows.mean(0)[: prompt.shape[1]][prompt[0] == vlm.model.config.image_token_id]
    assert torch.allclose(found.weights.flatten(), expected, atol=1e-5)
    assert found.on_image == pytest.approx(expected.sum().item(), abs=1e-4)
    assert 0 < found.on_image < 1


def test_the_command_draws_encoders_and_vlms(run, folder, encoder_folder, picture_file, tmp_path):
    out = tmp_path / "new/features.png"
    picture_file = str(Path(picture_file).rename(tmp_path / "no UTF-8 \udce9.png"))
    code, said, err = run("features", encoder_folder, picture_file, picture_file, "--out", out, "--device", "cpu")
    assert (code, said) == (0, "") and "2 images, 3 x 3 patches" in err
    two = Image.open(out).size
    code, said, _ = run("features", folder, picture_file, "--question", "A $1$ star?", "--out", out, "--device", "cpu")
    assert code == 0 and said.startswith(f"{tmp_path}/no UTF-8 ?.png: ")
    one = Image.open(out).size
    assert one[0] < two[0] and one[1] > two[1]  # fewer columns, and a row for the attention


def test_a_picture_is_never_written_over(run, encoder_folder, picture_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "a picture.png").read_bytes()
    (tmp_path / "features.png").symlink_to(picture_file)  # what --out is without the flag
    for arguments in (["--out", "a picture.png"], []):
        code, _, err = run("features", encoder_folder, picture_file, *arguments)
        name = arguments[-1] if arguments else "features.png"
        assert code == 2
        assert err == f"error: --out {name} is one of the pictures, which it would replace: give another name\n"
    assert (tmp_path / "a picture.png").read_bytes() == before


def test_an_image_size_is_of_an_encoder(run, folder, picture_file):
    code, _, err = run("features", folder, picture_file, "--image-size", "64")
    assert (code, err) == (2, f"error: --image-size is of an encoder, and {folder} is a VLM: leave it out\n")


def test_patches_are_counted_from_the_upper_left():
    assert chosen_patch("0,2", 3) == (0, 2)
    assert chosen_patch(None, 14) == (7, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "3,0"], "--patch 3,0: there are 3 x 3 patches; ROW and COL go from 0 to 2"),
        (["--patch", "middle"], "--patch middle: give ROW,COL, such as 0,2"),
        (["--out", "x.bmp"], "--out x.bmp: give a name that ends in .png"),
        (["--question", "What?"], "--question needs a VLM"),
        (["none.png"], "cannot read the image none.png: No such file"),
    ],
)
def test_a_users_error_is_one_line(run, encoder_folder, picture_file, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("features", encoder_folder, picture_file, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
