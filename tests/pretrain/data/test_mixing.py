"""pretrain.data.mixing: the grammar, the shares, and every source in its own epochs."""

import re
from collections import Counter

import numpy as np
import pytest
from tiny.pictures import as_pixels
from tiny.tars import numbered_pairs, pair, write_numbered_shards, write_tar

from pretrain.data.batches import CaptionBatches
from pretrain.data.mixing import MixedOrder, labels, parse_mixture, places
from pretrain.data.source import open_captions
from vlm.errors import UserError
from vlm.files import read_jsonl

pytestmark = pytest.mark.usefixtures("own_caches")

GRAMMAR = {
    "a=0.7,b=0.3": [("a", 0.7), ("b", 0.3)],
    "a=7, b=3": [("a", 0.7), ("b", 0.3)],
    "/d/x-{00,01}.tar=1,/e/{000..010}.tar=.25": [("/d/x-{00,01}.tar", 0.8), ("/e/{000..010}.tar", 0.2)],
    "https://h/a.tar?v=1=3e0,s3://b/c=1": [("https://h/a.tar?v=1", 0.75), ("s3://b/c", 0.25)],
    "/d/lr=1e-3/a,b=1,/c=1": [("/d/lr=1e-3/a,b", 0.5), ("/c", 0.5)],
    "a\\,b=1\\,c=1,d=1": [("a,b=1,c", 0.5), ("d", 0.5)],
    "x.tar::y.tar=1,z=1": [("x.tar::y.tar", 0.5), ("z", 0.5)],
    "/d/x-{00,01}.tar": [],
    "/d/x,y.tar": [],
    "https://h/a.tar?v=1": [],
    "a=0.7": [],
}


@pytest.mark.parametrize("text", GRAMMAR)
def test_grammar(text):
    assert parse_mixture(text) == GRAMMAR[text]


REFUSED = {
    "a=0.7,b": "b has no weight; several sources need a weight each, as in a=0.7,b=0.3",
    "s3://a/b.tar,s3://c/d.tar": "s3://a/b.tar has no weight",
    "a=0,b=1": "the weight 0 is not a number above 0",
    "a=1.2.3,b=1": "the weight 1.2.3 is not a number",
    "a=1,a=2": "names a twice",
    "a=1,b=1e999": "the weight 1e999 is not a number above 0",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refusals(text):
    with pytest.raises(UserError, match=REFUSED[text].replace(".", r"\.")):
        parse_mixture(text)


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_numbered_shards(tmp_path / "a=1,b=1", [5])
    assert parse_mixture("a=1,b=1") == []
    assert len(open_captions("a=1,b=1")) == 5


def test_what_is_too_long_for_a_path(tmp_path):
    """A pattern without quotes, whose files the command line joins, and a list of files by its own."""
    files = [tmp_path / f"{number:03d}-{'x' * 60}.tar" for number in range(40)]
    for file in files:
        write_tar(file, numbered_pairs([7]))
    text = ",".join(map(str, files))
    assert len(text) > 4096
    with pytest.raises(UserError, match=r"several sources need a weight each.*; if a shell made .* quotes") as caught:
        parse_mixture(text)
    assert len(str(caught.value)) < 700
    assert len(open_captions("::".join(map(str, files)))) == 40
    with pytest.raises(UserError, match="40 of the 80 files that it names do not exist") as caught:
        open_captions("::".join([*map(str, files), *(f"{file}.gz" for file in files)]))
    assert len(str(caught.value)) < 700


def test_places():
    assert places([0.7, 0.3]) == places([7, 3]) == [7000, 3000]
    assert places([1, 1, 1]) == [3334, 3333, 3333]
    with pytest.raises(UserError, match="a share of 1e-05: give each at least 1 / 10,000"):
        places([1, 1e-5])


def test_labels():
    paths = ["/d/cc12m/{00..99}.tar", "s3://bucket/recap/", "/e/cc12m", "https://h/a/b.tar?x=1"]
    assert labels(paths) == ["cc12m", "recap", "cc12m-3", "b.tar"]
    assert labels(["/a/x-3", "/b/x", "/c/x", "/d/x"]) == ["x-3", "x", "x-4", "x-5"]  # x-3 is a name that is taken


def test_literal_order():
    order = MixedOrder([np.array([5]), np.array([3, 4])], [7000, 3000], seed=3)
    assert order.indices(0, 12).tolist() == [4, 0, 7, 3, 1, 8, 2, 2, 9, 1, 4, 11]
    assert np.array_equal(
        order.indices(9_990, 20_010), np.concatenate([order.indices(p, p + 1) for p in range(9_990, 20_010)])
    )


def test_shares_and_epochs():
    order = MixedOrder([np.array([500]), np.array([300, 100])], [7000, 3000], seed=1)
    drawn = order.indices(0, 20_000)
    first, second = drawn[drawn < 500], drawn[drawn >= 500] - 500
    assert (len(first), len(second)) == (14_000, 6_000)
    for own, total in ((first, 500), (second, 400)):
        epochs = own[: len(own) // total * total].reshape(-1, total)
        assert (np.sort(epochs, axis=1) == np.arange(total)).all()  # nothing twice in an epoch of its source
        assert not (epochs[0] == epochs[1]).all()  # each is shuffled anew
    inside = [(drawn[start : start + 100] < 500).sum() for start in range(0, 20_000, 100)]
    assert min(inside) >= 66 and max(inside) <= 74  # every stretch has its share


@pytest.fixture
def mixture(tmp_path):
    write_numbered_shards(tmp_path / "a", (25, 5))
    write_numbered_shards(tmp_path / "b", (12,))
    return f"{tmp_path}/a=0.75,{tmp_path}/b=0.25"


def batches(source, start=0, rank=0, world_size=1, workers=0, **options):
    data = open_captions(source)
    made = CaptionBatches(
        data, as_pixels, 8, 3, start, 20, rank=rank, world_size=world_size, workers=workers, **options
    )
    return [batch["ids"] for batch in made]


def test_ranks_workers_and_resumption(mixture):
    whole = batches(mixture)
    assert Counter(id.split("/")[0] for ids in whole for id in ids) == {"a": 120, "b": 40}
    first = [re.fullmatch(r"(.)/train-(.)\.tar:(.*)", id) for id in whole[0]]
    assert " ".join("{}{}:{}".format(*found.groups()) for found in first) == "a0:4 b0:2 a0:12 a0:17 a0:0 b0:3 a0:3 a0:1"
    assert batches(mixture, workers=2) == whole
    assert batches(mixture, start=7) == whole[7:]
    halves = [batches(mixture, rank=rank, world_size=2) for rank in (0, 1)]
    assert [first + second for first, second in zip(*halves)] == whole


def test_fingerprint(mixture, tmp_path):
    before = open_captions(mixture).fingerprint
    (tmp_path / "b").rename(tmp_path / "moved")
    assert open_captions(f"{tmp_path}/a=3,{tmp_path}/moved=1").fingerprint == before
    assert open_captions(f"{tmp_path}/a=2,{tmp_path}/moved=1").fingerprint != before


def test_a_bad_sample_is_replaced_from_its_source(mixture, tmp_path):
    good = [entry for entry in numbered_pairs(range(6)) if not entry[0].endswith("json")]
    write_tar(tmp_path / "b" / "train-0.tar", [*good, *pair("bad", b"no image", b"x"), ("lone.txt", b"y")])
    data = open_captions(mixture)
    assert data.describe(160) == [
        f"75.00% a: 120 samples, 4.00 epochs of 30 pairs in {tmp_path}/a",
        f"25.00% b: 40 samples, 5.71 epochs of 7 pairs in {tmp_path}/b (left out: 1 x no image)",
    ]
    ids = [id for ids in batches(mixture, quarantine=tmp_path / "q.jsonl") for id in ids]
    assert Counter(id.split("/")[0] for id in ids) == {"a": 120, "b": 40}
    lone, *bad = read_jsonl(tmp_path / "q.jsonl")
    assert (lone["shard"], lone["key"], lone["reason"]) == ("b/train-0.tar", "lone", "no image")
    assert {record["shard"] for record in bad} == {"b/train-0.tar"}
    assert all(record["filled_with"].startswith("b/") for record in bad) and 5 <= len(bad) <= 8


def test_a_rotten_source_is_not_hidden_by_a_sound_one(tmp_path):
    write_numbered_shards(tmp_path / "a", (500,))
    write_numbered_shards(tmp_path / "b", (12,))
    lone = [(f"lone{n}.txt", b"x") for n in range(22)]
    write_tar(tmp_path / "b" / "train-0.tar", [*numbered_pairs(range(12)), *lone])
    with pytest.raises(UserError, match=r"22 of all 34 samples of b \(64.7%, limit 5.0%\) cannot be used: 22 x no im"):
        batches(f"{tmp_path}/a=0.99,{tmp_path}/b=0.01")
