"""Pixels travel as bytes and are normalised where the model reads them: the values of the transforms, to the bit."""

import torch
from tiny.pictures import noise

from pretrain.config import from_preset
from pretrain.data.augment import Squash
from pretrain.model import Pretrainer, encoder_config
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.encoders.levljepa import new_encoder
from vlm.images import EvalTransform
from vlm.pixels import to_tensor


def test_bytes_are_read_as_the_normalised_values():
    encoder = new_encoder(encoder_config(from_preset("tiny"), 300), seed=0)
    model = Pretrainer(encoder)
    read = []
    encoder.image.features = lambda pixels: read.append(pixels) or pixels.mean((2, 3))
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    image = noise(64, 48)
    own = Squash(48)(image, torch.Generator())
    for pixels in (levels, own[None]):
        before = pixels.clone()
        model._image_features(pixels)
        assert read[-1].dtype == torch.float32 and torch.equal(pixels, before)
        assert torch.equal(read[-1], torch.stack([to_tensor(image, CLIP_MEAN, CLIP_STD) for image in pixels]))
    assert torch.equal(read[-1][0], EvalTransform(48, CLIP_MEAN, CLIP_STD)(image))
    model._image_features(read[-1])
    assert read[-1] is read[-2]  # already normalised
    assert not {"mean", "std"} & model.state_dict().keys()
