"""Models that several packages' tests share, made once a session."""

from pathlib import Path

import pytest
from tiny.llava import write_vlm
from tiny.llms import FAMILIES, write_family


@pytest.fixture(scope="session")
def llm_folders(tmp_path_factory) -> dict[str, Path]:
    """A random language model of each family, in a Hugging Face folder."""
    root = tmp_path_factory.mktemp("llms")
    return {family: write_family(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory) -> Path:
    """A saved VLM folder: its tokenizer has a token a byte, its ViT gives 16 image tokens."""
    return write_vlm(tmp_path_factory.mktemp("tiny"))
