"""Bad samples: the exact list with reasons, deterministic substitutes, and the ratio that stops a run."""

import json
import zlib

import pytest
from PIL import Image
from tiny.pictures import as_pixels, encoded, noise
from tiny.tars import pair, write_tar

from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from vlm.errors import UserError
from vlm.run.quarantine import Limit, Quarantine, merge

pytestmark = pytest.mark.usefixtures("own_caches")


def encode(number, kind="PNG", size=(16, 16), **options):
    """Noise, with the number as its pixel at (8, 8)."""
    image = noise(*size, seed=number)
    if min(size) > 8:
        image.putpixel((8, 8), (number, 0, 7))
    return encoded(image, kind, **options)


def good(number):
    return pair(f"good{number}", encode(number), f"number {number}".encode())


def bomb():
    """A PNG of 17 KB that claims 400 million pixels."""
    data = bytearray(encode(0))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


PNG, JPEG = encode(1), encode(1, "JPEG", (64, 64))
BAD = {  # key: (members by suffix, reason; None where it is usable)
    "html": ({"jpg": b"<!DOCTYPE html>404", "txt": b"x"}, "not an image"),
    "empty-file": ({"jpg": b"", "txt": b"x"}, "not an image"),
    "svg": ({"png": b"<svg/>", "txt": b"x"}, "not an image"),
    "eps": ({"jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n", "txt": b"x"}, "not an image"),
    "tiff": ({"jpg": encode(1, "TIFF"), "txt": b"x"}, "not an image"),
    "half-jpeg": ({"jpg": JPEG[: len(JPEG) // 2], "txt": b"x"}, "damaged image"),
    "jpeg-2-bytes": ({"jpg": JPEG[:-2], "txt": b"x"}, "damaged image"),
    "half-png": ({"png": PNG[: len(PNG) // 2], "txt": b"x"}, "damaged image"),
    "bomb": ({"png": bomb(), "txt": b"x"}, "too many pixels"),
    "pixel": ({"png": encode(1, size=(1, 1)), "txt": b"x"}, "too small"),
    "line": ({"png": encode(1, size=(5000, 9)), "txt": b"x"}, "too elongated"),
    "no-caption": ({"png": PNG}, "no caption"),
    "no-image": ({"txt": b"x"}, "no image"),
    "json-only": ({"json": b"{}", "png": PNG}, "no caption"),
    "two-images": ({"png": PNG, "jpg": JPEG, "txt": b"x"}, "two images"),
    "two-captions": ({"png": PNG, "txt": b"x", "TXT": b"y"}, "two captions"),
    "pickle": ({"png": PNG, "pkl": b"cposix\nsystem\n(S'touch /tmp/marker'\ntR."}, "no caption"),
    "empty-caption": ({"png": PNG, "txt": b""}, "empty caption"),
    "spaces": ({"png": PNG, "txt": b" \n\0\t "}, "empty caption"),
    "zero-width": ({"png": PNG, "txt": "\u200b\ufeff".encode()}, "empty caption"),
    "latin-1": ({"png": PNG, "txt": b"number 1 caf\xe9"}, None),
    "huge-caption": ({"png": PNG, "txt": b"number 1 " + b"y" * 10**6}, None),
    "UPPER": ({"PNG": PNG, "TXT": b"number 1"}, None),
    "animation": (
        {"webp": encode(1, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (16, 16))] * 50)},
        "no caption",
    ),
}
CONTENT = {name: members for name, (members, _) in BAD.items()}


def pixels(image, generator):
    return as_pixels(image.crop((0, 0, 16, 16)))


@pytest.fixture
def shards(tmp_path):
    """Every bad case between good samples, a repeated key, and a shard that is cut in its third sample."""
    folder = tmp_path / "shards"
    folder.mkdir()
    write_tar(folder / "a.tar", [m for number in range(100, 200) for m in good(number)] + good(150))
    bad = [(f"{key}.{suffix}", data) for key, members in CONTENT.items() for suffix, data in members.items()]
    write_tar(folder / "b.tar", [*good(1), *bad, *good(2)])
    write_tar(folder / "c.tar", [*good(3), *good(4), *good(5)])
    cut = (folder / "c.tar").read_bytes()
    (folder / "c.tar").write_bytes(cut[: cut.rindex(b"good5.txt")])
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def run(shards, out, rank=0, world_size=1, start=0, stop=8, **options):
    return list(
        CaptionBatches(
            open_captions(shards), pixels, 16, 5, start, stop, rank, world_size,
            quarantine=out / "quarantine.jsonl", bad_ratio=0.5, **options,
        )
    )  # fmt: skip


def test_the_quarantine_list_is_exact(shards, tmp_path):
    """8 steps of 16 cover the whole set: every bad sample is listed once, nothing else is, and no pair is mixed up."""
    batches = run(shards, tmp_path)
    records = read(tmp_path / "quarantine.jsonl")
    listed = {(r["shard"], r["index"], r["key"], r["reason"]) for r in records}
    expected = {("b.tar", i, key, reason) for i, (key, (_, reason)) in enumerate(BAD.items(), start=1) if reason}
    expected |= {("a.tar", 100, "good150", "duplicate key"), ("c.tar", 2, "good5", "lost in a cut shard")}
    short = [r for r in records if r["reason"].startswith("short shard")]
    assert [(r["shard"], r["index"], r["key"]) for r in short] == [("c.tar", 3, None)]
    assert "no end-of-archive marker" in short[0]["reason"]
    assert listed - {("c.tar", 3, None, short[0]["reason"])} == expected
    for batch in batches:
        for picture, caption in zip(batch["images"], batch["captions"]):
            number = int(caption.split()[1])
            assert picture[:, 8, 8].tolist() == [number, 0, 7]
            assert len(caption) <= 10_000


def test_a_slot_is_filled_by_a_keyed_draw_and_both_are_named(shards, tmp_path):
    batches = run(shards, tmp_path)
    ids = [sample for batch in batches for sample in batch["ids"]]
    bad = {f"b.tar:{i}" for i, (_, reason) in enumerate(BAD.values(), start=1) if reason}
    records = [record for record in read(tmp_path / "quarantine.jsonl") if "position" in record]
    assert len(ids) == 128 and not set(ids) & bad
    last = {record["position"]: record["filled_with"] for record in records}
    assert len(records) >= len(last) >= 11
    assert all(ids[position] == substitute for position, substitute in last.items())
    first = {}
    for record in records:
        first.setdefault(record["position"], f"{record['shard']}:{record['index']}")
    data = open_captions(shards)
    order = CaptionBatches(data, pixels, 16, 5).order
    for position, sample in enumerate(ids):
        assert first.get(position, sample) == "{}:{}".format(*data.identify(order.indices(position, position + 1)[0]))


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 1)])
def test_ranks_write_apart_and_are_merged(shards, tmp_path, world_size, workers):
    alone = run(shards, tmp_path / "alone")
    parts = [run(shards, tmp_path / "ranks", rank, world_size, workers=workers) for rank in reversed(range(world_size))]
    together = [[sample for part in reversed(step) for sample in part["ids"]] for step in zip(*parts)]
    assert together == [batch["ids"] for batch in alone]
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["quarantine.jsonl"]
    both = [sorted(map(json.dumps, read(tmp_path / name / "quarantine.jsonl"))) for name in ("alone", "ranks")]
    assert both[0] == both[1]


@pytest.mark.parametrize("header", ["unreadable", "damaged"])
def test_a_shard_that_fails_under_the_run_costs_its_samples_even_their_names(tmp_path, monkeypatch, header):
    """Reads of the first shard fail, also those of headers, which hold the names of its samples."""
    for shard in range(2):
        write_tar(tmp_path / f"train-{shard}.tar", [m for n in range(10) for m in good(10 * shard + n)])
    data = open_captions(tmp_path, cache=tmp_path / "cache")
    pread = data._pread

    def failing(shard, block, size):
        if shard == 0 and (header == "unreadable" or size != 512):
            raise OSError(5, "Input/output error")
        return b"x" * size if shard == 0 else pread(shard, block, size)

    monkeypatch.setattr(data, "_pread", failing)
    (batch,) = CaptionBatches(data, pixels, 20, stop_step=1, quarantine=tmp_path / "bad.jsonl", bad_ratio=1.0)
    assert {name.split(":")[0] for name in batch["ids"]} == {"train-1.tar"}
    records = read(tmp_path / "bad.jsonl")
    assert {record["index"] for record in records} == set(range(10))
    assert {(r["shard"], r["key"], r["reason"]) for r in records} == {
        ("train-0.tar", None, "read error: Input/output error")
    }


def test_a_resumed_run_lists_nothing_twice(shards, tmp_path):
    whole = run(shards, tmp_path / "whole")
    run(shards, tmp_path / "parts", stop=5)
    resumed = run(shards, tmp_path / "parts", start=3)
    assert [batch["ids"] for batch in resumed] == [batch["ids"] for batch in whole[3:]]
    assert read(tmp_path / "parts" / "quarantine.jsonl") == read(tmp_path / "whole" / "quarantine.jsonl")


def test_a_torn_line_does_not_swallow_the_next_one(tmp_path):
    """A power loss tears the last line; starts after it list that sample again, and can read what they have written."""
    file, part = tmp_path / "quarantine.jsonl", tmp_path / "quarantine.rank1.jsonl"
    records = [{"shard": "a.tar", "index": number, "key": None, "reason": "no image"} for number in range(4)]
    for place, two in ((file, records[:2]), (part, records[2:])):
        Quarantine(place, 0).add(two)
        place.write_bytes(place.read_bytes()[:-9])
    for start in range(3):
        Quarantine(file, 0).add(records[start : start + 2])
    assert read(file) == records
    file.write_bytes(file.read_bytes()[:-9])
    Quarantine(file, 1).add(records[3:])
    merge(file)
    assert read(file) == records and not part.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_stop_the_run(tmp_path, workers):
    broken = [m for n in range(40) for m in ((f"{n}.jpg", b"<html>" if n % 2 else JPEG[:-2]), (f"{n}.txt", b"x"))]
    write_tar(tmp_path / "a.tar", broken + [m for n in range(100, 200) for m in good(n)])
    batches = CaptionBatches(
        open_captions(tmp_path / "a.tar"), pixels, 20, workers=workers, quarantine=tmp_path / "q.jsonl"
    )
    with pytest.raises(
        UserError, match=r"limit 5\.0%\) cannot be used: \d+ x (damaged|not an) image, \d+ x "
    ) as caught:
        list(batches)
    assert sum(int(n) for n in str(caught.value).split("used: ")[1].replace(",", "").split() if n.isdigit()) >= 20
    assert len(read(tmp_path / "q.jsonl")) >= 20


def test_a_set_with_too_many_unusable_samples_is_refused_at_the_start(tmp_path):
    write_tar(
        tmp_path / "a.tar", [(f"{n}.png", PNG) for n in range(30)] + [m for n in range(100, 200) for m in good(n)]
    )
    with pytest.raises(
        UserError, match=r"30 of all 130 samples \(23\.1%, limit 5\.0%\) cannot be used: 30 x no caption"
    ):
        next(iter(CaptionBatches(open_captions(tmp_path / "a.tar"), pixels, 10)))


def test_nothing_but_bad_samples_ends(tmp_path):
    write_tar(tmp_path / "a.tar", [m for n in range(10) for m in ((f"{n}.jpg", b"<p>"), (f"{n}.txt", b"x"))])
    with pytest.raises(
        UserError,
        match=r"100 samples in a row cannot be used, the last, sample (\d) of a\.tar \(\1\), for: not an image",
    ):
        next(iter(CaptionBatches(open_captions(tmp_path / "a.tar"), pixels, 4)))


def bad(count, reason="damaged image"):
    return [{"reason": reason}] * count


def test_the_limit_is_over_the_last_ten_thousand():
    limit = Limit(0.05)
    limit.check(100, bad(19))  # fewer than 20 prove nothing
    for _ in range(99):
        limit.check(100, [])
    for _ in range(99):
        limit.check(100, bad(5))
    with pytest.raises(UserError, match=r"501 of the last 10,000 samples drawn \(5\.0%"):
        limit.check(100, bad(6))
    late = Limit(0.05)
    for _ in range(200):
        late.check(100, [])
    for _ in range(5):
        late.check(100, bad(100, "not an image"))
    with pytest.raises(UserError, match=r"501 of the last 10,000 .* used: 500 x not an image, 1 x damaged image; see"):
        late.check(100, bad(1))


def test_a_limit_of_zero_stops_at_the_first_bad_sample():
    Limit(0.05).check(8, [{"reason": "no caption"}])
    Limit(0).check(8, [])
    with pytest.raises(UserError, match=r"1 of the last 8 samples drawn \(12\.5%, limit 0\.0%\)"):
        Limit(0).check(8, [{"reason": "no caption"}])
