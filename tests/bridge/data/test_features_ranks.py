"""A disk that is too small for the features ends every rank: none waits for those that have ended."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from bridge.data import features
from vlm import room
from vlm.errors import UserError


class TwoNumbers:
    """An encoder of one token of two numbers."""

    key, shape, dtype, device = "key", (1, 2), torch.float32, torch.device("cpu")

    def __call__(self, images):
        return torch.zeros(len(images), 1, 2)


def fill_a_full_disk(rank, root):
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    room.free_bytes = lambda folder: 0
    try:
        features.FeatureCache(root / "cache", TwoNumbers()).fill([root / "one.png", root / "two.png"])
    except (UserError, SystemExit) as error:
        (root / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


def test_a_full_disk_ends_every_rank(tmp_path):
    for name in ("one.png", "two.png"):
        Image.new("RGB", (8, 8), name.removesuffix(".png").replace("one", "red").replace("two", "blue")).save(
            tmp_path / name
        )
    mp.spawn(fill_a_full_disk, args=(tmp_path,), nprocs=2)
    expected = f"UserError: {tmp_path}/cache has no room: 16 (features) bytes needed, 0 bytes free"
    assert (tmp_path / "0.txt").read_text().startswith(expected)
    assert (tmp_path / "1.txt").read_text() == "SystemExit: 2"
