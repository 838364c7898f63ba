"""An encoder and VLMs of the three families, for the tests of assembly."""

import numpy as np
import pytest
import torch
from PIL import Image

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.llava.assembly import assemble
from vlm.llms.load import load_llm


@pytest.fixture(scope="session")
def encoder():
    """A random ViT with 9 patches behind another normalisation than CLIP's."""
    config = EncoderConfig(
        image_size=24, patch_size=8, vision_width=24, vision_layers=2, vision_heads=2, text_width=16, text_layers=1,
        text_heads=1, vocab_size=32, positions=16, embed_dim=8, projector_width=8, projector_depth=1,
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3),
    )  # fmt: skip
    encoder = new_encoder(config, seed=3).eval().requires_grad_(False)
    for parameter in encoder.vision.parameters():  # away from the initial zeros and ones
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return encoder


@pytest.fixture(scope="session")
def models(llm_folders, encoder):
    """One VLM a family; the connector is scaled so that the picture matters to a random LLM."""
    made = {family: assemble(encoder, load_llm(str(folder), torch.float32)) for family, folder in llm_folders.items()}
    for model in made.values():
        model.connector.linear_2.weight.data.mul_(20)
    return made


@pytest.fixture(scope="session")
def saved(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    for family, model in models.items():
        model.save(root / family)
    return root


@pytest.fixture(scope="session")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((70, 50), Image.Resampling.BICUBIC)
