"""An encoder and VLMs of the three families, for the tests of assembly."""

import pytest
import torch
from PIL import Image
from tiny import pictures
from tiny.encoders import nine_patch_encoder

from vlm.llava.assembly import assemble
from vlm.llms.load import load_llm


@pytest.fixture(scope="session")
def encoder():
    return nine_patch_encoder()


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
    return pictures.noise(7, 5).resize((70, 50), Image.Resampling.BICUBIC)
