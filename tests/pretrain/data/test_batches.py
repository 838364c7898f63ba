"""pretrain.data.batches: batches as a pure function of (seed, step), sources, refusals."""

import os

import numpy as np
import pytest
import torch
from checks.shards import list_shards
from PIL import Image
from tiny.pictures import as_pixels, encoded, numbered
from tiny.tars import numbered_pairs, pair, write_numbered_shards, write_tar

from pretrain.data import manifest
from pretrain.data.batches import CaptionBatches
from pretrain.data.captions import CAPTION_BYTES, BadSample
from pretrain.data.pairs import clean_caption
from pretrain.data.source import open_captions
from pretrain.data.workers import dead_loaders_told
from vlm.encoders.config import CLIP_MEAN, CLIP_STD
from vlm.errors import UserError
from vlm.images import EvalTransform

pytestmark = pytest.mark.usefixtures("own_caches")


def numbers_of(batch):
    return [int(caption.split()[1]) for caption in batch["captions"]]


def noisy(image, generator):
    return EvalTransform(8, CLIP_MEAN, CLIP_STD)(image) + torch.rand(1, generator=generator)


@pytest.fixture
def shards(tmp_path):
    """60 pairs in train-0, train-1, train-2 of 25, 5 and 30, and a val shard."""
    return write_numbered_shards(tmp_path / "shards", (25, 5, 30))


def global_batches(data, world_size=1, workers=0, start=0, stop=9, **options):
    """The rows of all ranks, put together, step by step."""
    ranks = [
        CaptionBatches(data, noisy, 8, 3, start, stop, rank=rank, world_size=world_size, workers=workers, **options)
        for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        images = torch.cat([part["images"] for part in parts])
        yield images, [c for part in parts for c in part["captions"]], [i for part in parts for i in part["ids"]]


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    return all(torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, second))


def test_literal_first_batch(shards):
    images, captions, ids = next(global_batches(open_captions(shards)))
    expected = "2:17 0:15 2:10 1:1 2:26 2:18 0:22 2:2"
    assert " ".join(ids) == " ".join("train-{}.tar:{}".format(*sample.split(":")) for sample in expected.split())
    assert captions == [f"number {n}" for n in (47, 15, 40, 26, 56, 48, 22, 32)]
    assert (images.dtype, tuple(images.shape)) == (torch.float32, (8, 3, 8, 8))


def test_images_and_captions_stay_together(shards):
    data = open_captions(shards)
    for batch in CaptionBatches(data, as_pixels, 8, stop_step=8):
        assert batch["images"][:, 0, 4, 4].tolist() == numbers_of(batch)
        offsets = {"train-0.tar": 0, "train-1.tar": 25, "train-2.tar": 30}
        ids = [sample.split(":") for sample in batch["ids"]]
        assert [offsets[shard] + int(index) for shard, index in ids] == numbers_of(batch)


def test_every_sample_once_an_epoch_across_batch_edges(shards):
    """60 samples in batches of 8: step 7 ends one epoch and begins the next, nothing is dropped."""
    batches = CaptionBatches(open_captions(shards), as_pixels, 8, seed=1, stop_step=15)
    drawn = [number for batch in batches for number in numbers_of(batch)]
    assert sorted(drawn[:60]) == sorted(drawn[60:]) == list(range(60))
    assert drawn[:60] != drawn[60:]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (4, 0), (2, 1)])
def test_world_size_and_workers_only_cut_the_batches_up(shards, world_size, workers):
    data = open_captions(shards)
    assert same(global_batches(data), global_batches(data, world_size, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_any_step_equals_the_uninterrupted_run(shards, workers):
    whole = list(global_batches(open_captions(shards)))
    for start in (3, 7):
        assert same(whole[start:], global_batches(open_captions(shards), workers=workers, start=start))


def test_augmentation_is_keyed_by_seed_and_position(shards):
    data = open_captions(shards)
    noise = torch.cat([batch[0][:, 0, 0, 0] for batch in global_batches(data, stop=16)])
    assert len(noise.unique()) == 128  # also where the same sample comes again in the next epoch
    other = next(iter(CaptionBatches(data, noisy, 8, seed=4)))
    assert not set(other["images"][:, 0, 0, 0].tolist()) & set(noise.tolist())


def test_reduced_decoding(tmp_path):
    black = encoded(Image.new("RGB", (640, 480)), "JPEG")
    write_tar(tmp_path / "a.tar", pair("a", black, b"black", suffix="jpg"))
    batch = next(iter(CaptionBatches(open_captions(tmp_path / "a.tar"), as_pixels, 1, fit=100)))
    assert batch["images"].shape == (1, 3, 240, 320)


def test_a_killed_worker_is_one_clear_line(shards):
    def die(image, generator):
        os.kill(os.getpid(), 9)

    with pytest.raises(UserError, match="a loader worker died"):
        next(iter(CaptionBatches(open_captions(shards), die, 8, workers=1)))


DIED = [
    (False, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True),  # met in any call
    (True, RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
    (True, ConnectionResetError(104, "Connection reset by peer"), True),
    (False, ConnectionResetError(104, "Connection reset by peer"), False),
    (True, FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."), False),
    (True, RuntimeError("Caught RuntimeError in DataLoader worker process 0."), False),
]


@pytest.mark.parametrize(("reading", "error", "death"), DIED)
def test_the_death_of_a_worker_is_told_from_its_errors(reading, error, death):
    with pytest.raises(UserError if death else type(error)) as told, dead_loaders_told(reading):
        raise error
    assert ("a loader worker died, often for want of memory: lower --workers" in str(told.value)) == death


CAPTIONS = {
    "plain": (b"a cat", "a cat"),
    "white space": ("  a\t\tcat \n\u3000on\u00a0a mat ".encode(), "a cat on a mat"),
    "NUL": (b"a\0cat\0", "acat"),
    "not UTF-8": (b"caf\xe9", "caf\ufffd"),
    "surrogate bytes": (b"\xed\xa0\x80 x", "\ufffd\ufffd\ufffd x"),
    "byte order mark": ("\ufeffa cat".encode(), "a cat"),
    "cut": (b"x" * 10_001, "x" * 10_000),
    "read up to the middle of a character": (b"a" + b" " * (CAPTION_BYTES - 3) + "語".encode()[:2], "a"),
    "cut before a space": (b"x" * 9_999 + b" y", "x" * 9_999),
    "special tokens are text": (b"<|endoftext|> [PAD]", "<|endoftext|> [PAD]"),
    "bidi stays": ("\u202eabc".encode(), "\u202eabc"),
    "zero width only": ("\u200b\u200d \ufeff".encode(), ""),
    "spaces": (b" \n\t ", ""),
    "empty": (b"", ""),
    "null": (None, ""),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_clean_caption(name):
    raw, expected = CAPTIONS[name]
    assert clean_caption(raw) == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_caption_in_utf_16_is_a_bad_sample(encoding):
    with pytest.raises(BadSample, match="caption is UTF-16, not UTF-8"):
        clean_caption("\ufeffa cat".encode(encoding))


def test_captions_in_latin_1_are_counted_at_the_end(tmp_path, capsys):
    texts = ["café".encode("latin-1"), "café".encode(), "naïf".encode("latin-1"), b"tea"]
    write_tar(tmp_path / "a.tar", [part for n, text in enumerate(texts) for part in pair(str(n), numbered(n), text)])
    data = open_captions(tmp_path / "a.tar")
    batches = iter(CaptionBatches(data, as_pixels, 4, stop_step=2))
    captions = [sorted(next(batches)["captions"]) for _ in range(2)]
    capsys.readouterr()
    assert next(batches, None) is None and captions == [["café", "caf\ufffd", "na\ufffdf", "tea"]] * 2
    told = "4 of the 8 captions drawn by rank 0 have U+FFFD in place of bytes that are no UTF-8: convert the texts"
    assert capsys.readouterr().err.startswith(told)


def test_a_folder_with_train_files_stands_for_those(shards):
    assert len(open_captions(shards)) == 60
    assert len(open_captions(f"{shards}/*.tar")) == 61
    assert len(open_captions(f"{shards}/train-[12].tar")) == 35
    assert open_captions(shards / "val-0.tar").first_captions(5) == ["number 999"]
    assert open_captions(shards, image_column="PNG", caption_column=".TXT").caption(0) == b"number 0"


def test_the_manifest_is_built_once_and_again_when_a_shard_changes(shards, monkeypatch):
    data = open_captions(shards)
    before = data.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(manifest.tars, "scan", None)  # any scan would fail
        again = open_captions(shards)
        assert np.array_equal(again.samples, data.samples)
    write_tar(shards / "train-1.tar", numbered_pairs(range(9)))
    changed = open_captions(shards)
    assert changed.counts.tolist() == [25, 9, 30]
    assert changed.fingerprint != before
    (next((shards.parent / "cache").rglob("manifest.json"))).write_text("{")
    assert len(open_captions(shards)) == 64


def test_the_fingerprint_is_not_of_the_place(shards, tmp_path):
    before = open_captions(shards).fingerprint
    shards.rename(tmp_path / "moved")
    assert open_captions(tmp_path / "moved").fingerprint == before


def test_other_captions_of_equal_size_are_other_data(shards):
    before = open_captions(shards)
    fingerprint = before.fingerprint
    same_images = numbered_pairs(range(25))
    write_tar(shards / "train-0.tar", [(name, content.replace(b"number", b"figure")) for name, content in same_images])
    after = open_captions(shards)
    assert after.first_captions(1) == ["figure 0"]
    assert [shard["size"] for shard in after.record["shards"]] == [shard["size"] for shard in before.record["shards"]]
    assert after.counts.tolist() == before.counts.tolist()
    assert after.fingerprint != fingerprint


def test_sha256_finds_a_flipped_bit_that_nothing_else_shows(shards):
    path = shards / "train-2.tar"
    with pytest.raises(UserError, match="build it with --sha256"):
        open_captions(shards).verify()
    data = open_captions(shards, sha256=True)
    assert data.verify() == []
    content, status = bytearray(path.read_bytes()), path.stat()
    content[600] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_captions(shards, sha256=True).verify() == ["train-2.tar"]


def test_changed_shards_are_compared_with_what_was_listed(shards):
    with pytest.raises(UserError, match="holds no manifest of the 3 shards that are there now"):
        open_captions(shards, as_listed=True)
    data = open_captions(shards, sha256=True)
    replace_shard(shards / "train-2.tar")  # of another time: a run would list it anew
    listed = open_captions(shards, as_listed=True)
    assert listed.verify() == ["train-2.tar"] and listed.counts.tolist() == data.counts.tolist()
    with pytest.raises(UserError, match=r"1 shard differs from its SHA-256: train-2\.tar; fetch"):
        list_shards(str(shards), listed, verify=True)
    os.remove(shards / "train-1.tar")
    assert listed.verify() == ["train-1.tar", "train-2.tar"]


def replace_shard(path):
    write_tar(path, numbered_pairs([1] * 30))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("change", "words"), [(os.remove, "cannot read shard"), (replace_shard, "was replaced")])
def test_a_shard_that_changes_under_the_run(shards, change, words, workers):
    data = open_captions(shards)
    change(shards / "train-2.tar")
    with pytest.raises(UserError, match=words):
        list(CaptionBatches(data, as_pixels, 8, stop_step=5, workers=workers))


REFUSED = {  # name: (what is asked of the folder `shards`, words of the one line)
    "missing": (lambda f: open_captions(f / "nothing"), "nothing does not exist"),
    "no match": (lambda f: open_captions(f"{f}/x*.tar"), r"no file matches .*x\*\.tar"),
    "empty folder": (lambda f: ((f / "e").mkdir(), open_captions(f / "e")), "holds no .tar, .parquet or .arrow"),
    "mixed": (lambda f: ((f / "a.parquet").touch(), open_captions(f"{f}/*")), r"is \.parquet, \.tar"),
    "other kind": (lambda f: ((f / "a.zip").touch(), open_captions(f / "a.zip")), r"is \.zip"),
    "empty table": (lambda f: ((f / "a.csv").touch(), open_captions(f / "a.csv")), r"cannot read .*a\.csv as a data"),
    "pipe": (lambda f: open_captions("pipe:cat x.tar"), "commands are not run"),
    "empty shard": (
        lambda f: ((f / "train-9.tar").touch(), open_captions(f)),
        "train-9.tar holds no image-caption pair",
    ),
    "HTML": (lambda f: ((f / "train-9.tar").write_bytes(b"<p>" * 999), open_captions(f)), "pair: not a tar file"),
    "suffix": (lambda f: open_captions(f, image_column="gif"), "25 x no image; its members end in json, png, txt"),
    "few": (lambda f: CaptionBatches(open_captions(f), as_pixels, 64), "60 usable samples, a batch takes 64: lower"),
    "uneven": (
        lambda f: CaptionBatches(open_captions(f), as_pixels, 9, world_size=2),
        "9 cannot be split evenly over 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(shards, name):
    ask, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        ask(shards)
