"""Probes on two processes give what one gives, and the towers may run in bf16."""

import os
import signal
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch.utils.data import get_worker_info

from pretrain.probes import features, pixels, tokens
from pretrain.probes.features import cls_features, encode_in
from pretrain.probes.pixels import Images
from pretrain.probes.tokens import PatchTokens
from vlm.errors import UserError


def picture(number):
    return Image.new("RGB", (20, 16), (9 * number, 200 - 9 * number, 90))


def worker(rank, folder, encoder, count):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    features.ENCODE_BATCH = 4
    images = Images(count, picture)
    kept = PatchTokens(encoder, images, str(folder))
    if rank == 0:
        rows = next(kept.batches([list(range(count))]))
        torch.save((cls_features(encoder, images, "x"), kept.mean, kept.std, rows), folder / f"{count}.pt")
    else:
        cls_features(encoder, images, "x")
    dist.destroy_process_group()


def test_two_processes_encode_what_one_does(tiny_encoder, tmp_path, monkeypatch):
    """13 images in batches of 4 are 2 batches a process; of 3 images the second process has none."""
    monkeypatch.setattr(features, "ENCODE_BATCH", 4)
    for count in (13, 3):
        mp.spawn(worker, args=(tmp_path, tiny_encoder, count), nprocs=2)
        (tmp_path / "rendezvous").unlink(missing_ok=True)
        images = Images(count, picture)
        found, mean, std, rows = torch.load(tmp_path / f"{count}.pt")
        one = PatchTokens(tiny_encoder, images)
        assert torch.allclose(found, cls_features(tiny_encoder, images, "x"), atol=1e-6)
        assert torch.allclose(rows, next(one.batches([list(range(count))])), atol=2e-3)
        assert torch.allclose(mean, one.mean, atol=1e-4) and torch.allclose(std, one.std, atol=1e-4)


def on_two_machines(rank, folder, encoder, there):
    """Rank 1 finds nothing, or a file of another size, at the path that rank 0 has made."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    if rank == 1:
        from_main, elsewhere = tokens.on_main, folder / "elsewhere"
        tokens.on_main = lambda function: [from_main(function), str(elsewhere)][-1]
        if there:
            elsewhere.write_bytes(b"old")
    try:
        PatchTokens(encoder, Images(3, picture), str(folder / "tokens"))
        outcome = "made"
    except (UserError, SystemExit) as error:
        outcome = f"{type(error).__name__}: {error}"
    (folder / f"{rank}.txt").write_text(outcome)
    dist.destroy_process_group()


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_machines_do_not_share_is_refused(tiny_encoder, tmp_path, there):
    """Else rank 0 would learn from the zeros in its own file."""
    (tmp_path / "tokens").mkdir()
    mp.spawn(on_two_machines, args=(tmp_path, tiny_encoder, there), nprocs=2)
    assert (tmp_path / "0.txt").read_text() == (
        f"UserError: --tokens {tmp_path}/tokens is not one folder for all processes: give --tokens DIR on storage that "
        "all machines share"
    )
    assert (tmp_path / "1.txt").read_text() == "SystemExit: 2"
    assert list((tmp_path / "tokens").iterdir()) == []
    assert (tmp_path / "elsewhere").exists() == there
    assert not there or (tmp_path / "elsewhere").read_bytes() == b"old"


def test_worker_processes_decode_what_threads_do(tiny_encoder, monkeypatch):
    images, batches = Images(12, picture), features.in_order(12, 4)
    threads = list(pixels.pixel_batches(tiny_encoder, images, batches))
    monkeypatch.setattr(pixels, "MANY", 1)
    monkeypatch.setattr(pixels, "_workers", lambda encoder, rows: 2)
    processes = list(pixels.pixel_batches(tiny_encoder, images, batches))
    assert [len(part) for part in processes] == [4, 4, 4]
    assert all(torch.equal(one, other) for one, other in zip(threads, processes, strict=True))


@pytest.fixture
def in_processes(monkeypatch):
    """As of Python 3.14, processes start from new unless the loader says otherwise."""
    monkeypatch.setattr(pixels, "MANY", 1)
    monkeypatch.setattr(pixels, "_workers", lambda encoder, rows: 2)
    before = mp.get_start_method(allow_none=True)
    mp.set_start_method("forkserver", force=True)
    yield
    mp.set_start_method(before, force=True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere probes decode in threads")
def test_worker_processes_read_what_cannot_be_pickled(tiny_encoder, in_processes):
    images = Images(4, lambda number: picture(number))
    assert [len(part) for part in pixels.pixel_batches(tiny_encoder, images, features.in_order(4, 2))] == [2, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere probes decode in threads")
def test_a_killed_worker_is_one_clear_line(tiny_encoder, in_processes):
    """Probes have no --workers: fewer cores give fewer."""

    def die(number):
        assert get_worker_info()  # not the test itself
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match=r"a loader worker died.* or give fewer cores, as taskset -c 0-3 does"):
        list(pixels.pixel_batches(tiny_encoder, Images(4, die), features.in_order(4, 2)))


def test_time_and_room_are_told_from_the_first_batches(tiny_encoder, monkeypatch, capsys):
    monkeypatch.setattr(features, "TOLD_FROM", 3)
    monkeypatch.setattr(features, "MEASURED", range(1, 2))
    monkeypatch.setattr(features, "ENCODE_BATCH", 4)
    cls_features(tiny_encoder, Images(12, picture), "train")
    line = next(line for line in capsys.readouterr().err.splitlines() if "a second" in line)
    assert "train: 12 images at " in line and line.endswith(" minutes; 0.00 GB of features")


def test_towers_in_bf16_give_nearly_the_same(tiny_encoder):
    assert encode_in(tiny_encoder, torch.float32) is tiny_encoder
    half = encode_in(tiny_encoder, torch.bfloat16)
    images = Images(5, picture)
    exact, found = cls_features(tiny_encoder, images, "x"), cls_features(half, images, "x")
    assert found.dtype == torch.float32 and 1e-6 < (found - exact).norm() / exact.norm() < 2e-2
    assert tiny_encoder.features(torch.zeros(1, 3, 48, 48)).dtype == torch.float32  # the encoder itself is untouched
