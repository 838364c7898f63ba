"""Patch tokens as colours."""

import pytest
import torch

from vlm.errors import UserError
from vlm.run.pca import pca_rgb, principal_colours


def test_principal_colours_tell_groups_of_tokens_apart():
    centres = torch.eye(4, 16) * 10
    groups = torch.arange(4).repeat(2, 9)  # [2, 36]
    colours = principal_colours(centres[groups] + 0.01 * torch.randn(2, 36, 16))
    means = torch.stack([colours[groups == group].mean(0) for group in range(4)])
    assert colours.min() >= 0 and colours.max() <= 1
    assert max(colours[groups == group].std(0).max() for group in range(4)) < 0.02
    assert torch.pdist(means).min() > 0.5


def test_one_image_becomes_a_small_picture():
    row = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    tokens = torch.outer(row.repeat(4), torch.eye(8)[0])  # a left and a right half
    picture = pca_rgb(tokens)
    assert picture.shape == (4, 4, 3) and picture.dtype == "uint8"
    assert picture[..., 0].tolist() == [[0, 0, 255, 255]] * 4
    with pytest.raises(UserError, match="17 tokens make no square"):
        pca_rgb(torch.zeros(17, 8))
