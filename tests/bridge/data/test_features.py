"""The feature cache: equal to the live tower, filled once, whole after a kill, refused for another encoder."""

import os
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ViTConfig,
)

from bridge.data import features
from bridge.data.features import FeatureCache, PatchEncoder, default_cache
from vlm.errors import UserError
from vlm.run.folder import locked


def tiny_parts(
    seed: int = 0, dtype: torch.dtype = torch.float32, layer: int = -1
) -> tuple[LlavaForConditionalGeneration, CLIPImageProcessor]:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = ViTConfig(**sizes, image_size=8, patch_size=4, initializer_range=0.5, tie_last_hidden_states=True)
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**sizes, vocab_size=8), image_token_index=3,
        image_seq_length=4, vision_feature_layer=layer,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"height": 8, "width": 8}, do_center_crop=False)
    return LlavaForConditionalGeneration(config).eval().to(dtype), processor


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"images/{number}.png" for number in range(10)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def read(cache: FeatureCache, images) -> torch.Tensor:
    return cache.encode(cache.load(images))


class CountingEncoder(PatchEncoder):
    """Counts the images that it encodes; fails once `left` are used up."""

    def __init__(self, left=1000):
        super().__init__(*tiny_parts())
        self.encoded, self.left = 0, left

    def __call__(self, paths):
        self.encoded += len(paths)
        if self.encoded > self.left:
            raise KeyboardInterrupt
        return super().__call__(paths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cached_equals_live(tmp_path, images, dtype):
    encoder = PatchEncoder(*tiny_parts(dtype=dtype))
    assert encoder.shape == (4, 16)
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(images)
    live = encoder(images)
    assert live.shape == (10, 4, 16)
    assert live.dtype == dtype
    assert live.float().std() > 0.1
    assert torch.equal(read(cache, images), live)
    assert torch.equal(read(cache, [images[7], images[2], images[7]]), live[[7, 2, 7]])
    assert torch.equal(read(FeatureCache(tmp_path / "cache", encoder), images[3:5]), live[3:5])


def test_a_killed_fill_goes_on_with_what_is_missing(tmp_path, images, monkeypatch, capsys):
    monkeypatch.setattr(features, "SHARD_IMAGES", 4)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "cache", CountingEncoder(left=4)).fill(images)
    (tmp_path / "cache/rank0_00001.tmp").write_bytes(b"torn")
    assert "10 of 10 images to encode, 4 x 16 torch.float32 each, 0.0 MB" in capsys.readouterr().err
    encoder = CountingEncoder()
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(images)
    assert encoder.encoded == 6
    assert torch.equal(read(cache, images), PatchEncoder(*tiny_parts())(images))
    cache.fill(images)
    assert encoder.encoded == 6


def test_a_replaced_image_is_encoded_again(tmp_path, images):
    encoder = CountingEncoder()
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(images)
    os.replace(images[0], images[1])
    cache.fill(images[1:])
    assert encoder.encoded == 10  # it is known by its bytes
    assert torch.equal(read(cache, images[1:2]), PatchEncoder(*tiny_parts())(images[1:2]))
    Image.new("RGB", (8, 8), "red").save(images[2])
    cache.fill(images[1:])
    assert encoder.encoded == 11
    assert torch.equal(read(cache, images[2:3]), PatchEncoder(*tiny_parts())(images[2:3]))


def test_a_cache_may_be_moved_and_copied_images_are_known(tmp_path, images):
    FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(images)
    os.rename(tmp_path / "cache", tmp_path / "elsewhere")
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[4].read_bytes())
    encoder = CountingEncoder()
    cache = FeatureCache(tmp_path / "elsewhere", encoder)
    assert cache.fill([copy, tmp_path / "none.png"]) == {tmp_path / "none.png": "unreadable image"}
    assert encoder.encoded == 0
    assert torch.equal(read(cache, [copy]), PatchEncoder(*tiny_parts())([images[4]]))


def test_the_default_folder_is_the_encoders_and_waits_for_another_run(tmp_path, images, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = PatchEncoder(*tiny_parts())
    folder = default_cache(encoder)
    assert folder == tmp_path / f"levlm/features/{encoder.key[:16]}"
    cache = FeatureCache(folder, encoder, shared=True)
    with ExitStack() as other:
        other.enter_context(locked(folder))
        monkeypatch.setattr(features.time, "sleep", lambda seconds: other.close())
        cache.fill(images)
    assert capsys.readouterr().err.count(f"features: waiting for another run that fills {folder}") == 1
    assert torch.equal(read(cache, images), encoder(images))


def test_a_shared_folder_that_cannot_be_locked_is_an_error_and_no_wait(tmp_path, images):
    cache = FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts()), shared=True)
    (tmp_path / "cache/.lock").mkdir()
    with pytest.raises(UserError, match=r"cannot write to .*/cache \(Is a directory\): give another --features"):
        cache.fill(images)


def test_pixels_that_were_made_ahead_are_dropped_with_their_row(images):
    encoder = PatchEncoder(*tiny_parts())
    encoder.prepare(images[:3])
    encoder.forget(images[1:9])
    assert list(encoder._ready) == images[:1]


def test_large_jpegs_are_not_decoded_whole(tmp_path):
    large = tmp_path / "large.jpg"
    pixels = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
    Image.fromarray(pixels).save(large, quality=95)
    seen = []
    encoder = PatchEncoder(*tiny_parts())
    transform = encoder._transform

    def look(image):
        seen.append(image.size)
        return transform(image)

    encoder._transform = look
    small = encoder([large])
    assert seen == [(24, 16)]  # 8 pixels are read, 12 must be left: a quarter of 64 x 96
    seen.clear()
    encoder._side = lambda: None
    torch.testing.assert_close(encoder([large]), small, atol=0.05, rtol=0.05)
    assert seen == [(96, 64)]


def test_another_encoder_is_refused(tmp_path, images):
    FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(images)
    with pytest.raises(UserError, match="another encoder or of other preprocessing"):
        FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts(seed=1)))
    with pytest.raises(UserError, match="another encoder or of other preprocessing"):
        FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts(layer=-2)))
    model, processor = tiny_parts()
    model.model.vision_tower.config.layer_norm_eps = 1e-3  # of the same weights
    with pytest.raises(UserError, match=r"another encoder or of other preprocessing \(key differ\)"):
        FeatureCache(tmp_path / "cache", PatchEncoder(model, processor))
    model, processor = tiny_parts()
    processor.image_mean = [0.5, 0.5, 0.5]
    with pytest.raises(UserError, match="another encoder or of other preprocessing"):
        FeatureCache(tmp_path / "cache", PatchEncoder(model, processor))


def test_a_full_disk_is_foreseen(tmp_path, images, monkeypatch):
    monkeypatch.setattr("vlm.room.free_bytes", lambda folder: 100)
    with pytest.raises(UserError, match=r"2,560 \(features\) bytes needed, 100 bytes free: .* --no-cache, or"):
        FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(images)
    monkeypatch.setenv("LEVLM_DISK_CHECK", "0")
    FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(images)


def test_a_damaged_shard_is_named(tmp_path, images):
    FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(images)
    (tmp_path / "cache/rank0_00000.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"rank0_00000.safetensors cannot be read .*: delete it"):
        FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts()))


def test_a_deleted_shard_is_computed_again_beside_the_others(tmp_path, images, monkeypatch):
    monkeypatch.setattr(features, "SHARD_IMAGES", 4)
    encoder = CountingEncoder()
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(images)
    last = (tmp_path / "cache/rank0_00002.safetensors").read_bytes()
    (tmp_path / "cache/rank0_00000.safetensors").unlink()
    cache.fill(images)  # it looks anew: the first four are missing
    assert encoder.encoded == 14
    assert (tmp_path / "cache/rank0_00002.safetensors").read_bytes() == last
    assert torch.equal(read(cache, images), PatchEncoder(*tiny_parts())(images))
    assert torch.equal(read(FeatureCache(tmp_path / "cache", encoder), images), PatchEncoder(*tiny_parts())(images))


def test_an_unreadable_image_is_told_and_the_others_are_kept(tmp_path, images):
    many = images + [tmp_path / f"images/more{number}.png" for number in range(25)]
    for number, path in enumerate(many[10:]):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    many[33].write_bytes(b"no picture")
    encoder = CountingEncoder()
    assert FeatureCache(tmp_path / "cache", encoder).fill(many) == {many[33]: "not an image"}
    many[33].write_bytes(images[1].read_bytes())
    cache = FeatureCache(tmp_path / "cache", encoder)
    encoder.encoded = 0
    cache.fill(many)
    assert encoder.encoded == 0  # the others were kept, and this one is another's twin
    assert torch.equal(read(cache, many), PatchEncoder(*tiny_parts())(many))


def test_one_run_fills_a_shared_folder_at_a_time(tmp_path, images):
    cache = FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts()))
    with locked(tmp_path / "cache"), pytest.raises(UserError, match="wait for it, or give another --features"):
        cache.fill(images)
    cache.fill(images)
    with locked(tmp_path / "cache"):
        FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(
            images
        )  # nothing is missing: reading needs no lock


def fill_as_one_of_two(rank, root, images):
    """Rank 1 comes late: rank 0 has its shards written by then, were it not to wait."""
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    encoder = CountingEncoder()
    cache = FeatureCache(root / "cache", encoder)
    missing = cache._missing

    def slow(paths):
        if rank == 1:
            time.sleep(1)
        return missing(paths)

    cache._missing = slow
    cache.fill(images)
    assert torch.equal(read(cache, images), PatchEncoder(*tiny_parts())(images))
    torch.save(encoder.encoded, root / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_share_the_work(tmp_path, images):
    mp.spawn(fill_as_one_of_two, args=(tmp_path, images), nprocs=2)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)] == [5, 5]


def test_a_full_disk_while_writing_names_the_shard(tmp_path, images, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    with pytest.raises(UserError, match=r"cannot write .*rank0_00000\.safetensors \(I/O error: No space left"):
        FeatureCache(tmp_path / "cache", PatchEncoder(*tiny_parts())).fill(images)
