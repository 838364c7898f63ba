"""Patch tokens for the probes: kept or encoded anew they are the same, and every epoch shuffles them."""

import pytest
import torch
from PIL import Image

from pretrain.probes import tokens
from pretrain.probes.features import shuffled
from pretrain.probes.tokens import PatchTokens
from vlm.errors import UserError


def test_every_epoch_has_an_order_of_its_own_and_no_row_twice():
    batches = list(shuffled(10, 3, 7, seed=0))
    epochs = [[*a, *b, *c] for a, b, c in (batches[:3], batches[3:6])]
    assert [len(set(rows)) for rows in epochs] == [9, 9] and epochs[0] != epochs[1]
    assert batches == list(shuffled(10, 3, 7, seed=0)) != list(shuffled(10, 3, 7, seed=1))
    assert [sorted(rows) for rows in shuffled(2, 3, 2, seed=0)] == [[0, 1], [0, 1]]


def test_kept_tokens_are_those_encoded_anew(tiny_encoder, tmp_path, monkeypatch, capsys):
    images = [Image.new("RGB", (20, 16), (40 * n, 200 - 30 * n, 90)) for n in range(5)]
    kept = PatchTokens(tiny_encoder, images)
    monkeypatch.setattr(tokens, "KEPT", 0)
    filed = PatchTokens(tiny_encoder, images, str(tmp_path))
    assert not list(tmp_path.iterdir())  # the file has no name any more: it goes with the process
    with pytest.raises(UserError, match=r"--tokens /proc: the patch tokens take 5,120 bytes, /proc "):
        PatchTokens(tiny_encoder, images, "/proc")
    monkeypatch.setattr(tokens, "SPARE", 1 << 60)
    anew = PatchTokens(tiny_encoder, images)
    said = "each of 5 epochs encodes them anew, in place of 20 epochs that read them; --tokens DIR names another disk"
    assert said in capsys.readouterr().err
    assert (kept.epochs, filed.epochs, anew.epochs) == (20, 20, 5)
    rows = [[3, 1], [4]]
    for one, *others in zip(*(way.batches(rows) for way in (kept, filed, anew)), strict=True):
        assert all(torch.equal(one, other) for other in others) and one.shape[1:] == (16, 32)
    with torch.no_grad():
        every = tiny_encoder.patch_tokens(torch.stack([tiny_encoder.transform(image) for image in images]))
    assert torch.allclose(kept.mean, every.mean((0, 1)), atol=1e-3)
    assert torch.allclose(kept.std, every.flatten(0, 1).std(0, correction=0), atol=1e-3)


def test_tokens_are_kept_in_a_file_where_no_room_can_be_set_aside(tiny_encoder, tmp_path, monkeypatch):
    """macOS has no posix_fallocate."""
    images = [Image.new("RGB", (20, 16), (40 * n, 200 - 30 * n, 90)) for n in range(5)]
    (kept,) = PatchTokens(tiny_encoder, images).batches([[3, 1]])
    monkeypatch.setattr(tokens, "KEPT", 0)
    monkeypatch.delattr(tokens.os, "posix_fallocate")
    (filed,) = PatchTokens(tiny_encoder, images, str(tmp_path)).batches([[3, 1]])
    assert torch.equal(kept, filed)
