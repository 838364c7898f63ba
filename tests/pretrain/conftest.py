"""Captions that several tests train on."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 220), "grey": (128, 128, 128)}


@pytest.fixture(scope="session")
def captions(tmp_path_factory):
    """40 plain pictures with their colour's name, in two shards."""
    folder = tmp_path_factory.mktemp("captions")
    random = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as tar:
            for index in range(20):
                name = list(COLORS)[random.integers(4)]
                pixels = random.normal(COLORS[name], 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG")
                for suffix, data in (("png", picture.getvalue()), ("txt", f"a {name} picture".encode())):
                    member = tarfile.TarInfo(f"{shard}{index:05d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder
