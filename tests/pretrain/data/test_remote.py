"""pretrain.data.remote, ahead: shards in a store give what local ones give, whatever the network does meanwhile."""

import os
import random
import socket

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from tiny.pictures import as_pixels, numbered
from tiny.server import serving
from tiny.tars import numbered_pairs, write_numbered_shards, write_tar

from pretrain.data import ahead, remote, retries
from pretrain.data.ahead import merged
from pretrain.data.batches import CaptionBatches
from pretrain.data.source import open_captions
from vlm.errors import UserError

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


@pytest.fixture
def shards(tmp_path):
    """60 pairs in train-0, train-1, train-2 of 25, 5 and 30, and a val shard."""
    return write_numbered_shards(tmp_path / "shards", (25, 5, 30))


@pytest.fixture
def server(shards):
    with serving(shards) as made:
        yield made


def batches(source, workers=0, start=0, rank=0, world_size=1):
    data = open_captions(source)
    made = CaptionBatches(data, as_pixels, 8, 3, start, 9, rank=rank, world_size=world_size, workers=workers)
    return [(batch["ids"], batch["captions"], batch["images"].sum().item()) for batch in made]


def test_the_order_is_that_of_local_shards(shards, server):
    local, pattern = batches(f"{shards}/train-*.tar"), server.url + "/train-{0..2}.tar"
    assert local[0][0][:2] == ["train-2.tar:17", "train-0.tar:15"]
    assert batches(pattern) == local
    assert batches(pattern, workers=2) == local
    assert batches(pattern, workers=2, start=4) == local[4:]
    halves = [batches(pattern, rank=rank, world_size=2) for rank in (0, 1)]
    assert [first[0] + second[0] for first, second in zip(*halves)] == [ids for ids, _, _ in local]
    assert open_captions(pattern).fingerprint == open_captions(f"{shards}/train-*.tar").fingerprint


def test_listing_reads_headers_alone(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    entries = [(f"{n}.{kind}", os.urandom(size)) for n in range(20) for kind, size in (("jpg", 200_000), ("txt", 9))]
    write_tar(folder / "a.tar", entries)
    with serving(folder) as server:
        assert len(open_captions(server.url + "/a.tar")) == 20
        assert server.sent < 0.1 * (folder / "a.tar").stat().st_size
        server.requests.clear()
        assert len(open_captions(server.url + "/a.tar")) == 20  # from the cache, once its entity tag is seen
        assert [method for method, *_ in server.requests] == ["HEAD"]
        write_tar(folder / "a.tar", entries[:10])
        assert len(open_captions(server.url + "/a.tar")) == 5


def test_troubles_that_pass(shards, server):
    local = batches(shards / "train-0.tar")
    faults = {1: 503, 3: 429, 5: "cut", 8: 500, 13: "cut", 14: 502, 29: 504}
    server.fault = lambda number, method: faults.get(number)
    assert batches(server.url + "/train-0.tar") == local
    assert [request[3] for request in server.requests if request[2:] in {(1, 503), (3, 429)}] == [503, 429]


def test_a_silent_server_is_asked_again(shards, server, monkeypatch):
    monkeypatch.setattr(remote, "SILENT_SECONDS", 0.3)
    remote._store.cache_clear()
    server.fault = lambda number, method: "slow" if number in (2, 9) else None
    assert batches(server.url + "/train-0.tar") == batches(shards / "train-0.tar")
    remote._store.cache_clear()


LASTING = {404: "404 Not Found; check the address", 403: "403 Forbidden; give credentials", 410: "410 Gone"}


@pytest.mark.parametrize("status", LASTING)
def test_what_does_not_pass_is_one_line_at_once(server, status):
    server.fault = lambda number, method: status
    with pytest.raises(UserError, match=f"^cannot read {server.url}/train-0.tar: {LASTING[status]}"):
        open_captions(server.url + "/train-0.tar?token=secret")
    assert len(server.requests) == 2  # HEAD, and GET for servers that refuse HEAD


def test_pauses_leave_the_global_generator_as_it_is():
    answers = iter([ConnectionError("reset"), ConnectionError("reset"), b"bytes"])

    def call():
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    before = random.getstate()
    assert retries.persist(call, "s3://bucket/a.tar") == b"bytes" and random.getstate() == before


def test_a_store_that_stays_away(server, capsys):
    data = open_captions(server.url + "/train-0.tar")
    server.fault = lambda number, method: 503
    with pytest.raises(UserError, match=r"train-0.tar: 503 Service Unavailable \(7 tries in .*\): try again later"):
        next(iter(CaptionBatches(data, as_pixels, 8)))
    assert "waiting for http://127.0.0.1" in capsys.readouterr().err
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=r"Cannot connect to host.*7 tries"):
        open_captions(f"http://127.0.0.1:{port}/a.tar")


def test_a_shard_that_is_replaced_or_cut(shards, server):
    data = open_captions(server.url + "/train-0.tar")
    write_tar(shards / "train-0.tar", numbered_pairs(range(100, 125)))
    with pytest.raises(UserError, match=r"train-0.tar was replaced after it was listed"):
        data.read(0)
    data = open_captions(server.url + "/train-0.tar")
    data.read(0)
    content = (shards / "train-0.tar").read_bytes()
    (shards / "train-0.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"train-0.tar became shorter"):
        data.read(24)
    cut = open_captions(server.url + "/train-0.tar")
    assert len(cut) < 25 and [record["reason"][:11] for record in cut.unusable()][-1] == "short shard"


def offline():
    raise OfflineModeIsEnabled


def test_refusals(shards, server):
    server.ranges = False
    with pytest.raises(UserError, match=r"train-2.tar ignores ranges; shards are read by HTTP range requests"):
        open_captions(server.url + "/train-2.tar")
    with pytest.raises(UserError, match="web servers are not listed; name the shards by a brace pattern"):
        open_captions(server.url + "/shards/")
    with pytest.raises(UserError, match=r"x.arrow is .arrow; of stores .tar and .parquet are read, one kind at a time"):
        open_captions(server.url + "/x.arrow")
    with pytest.raises(UserError, match=r"cannot read http.*/a.parquet: 404 Not Found; check the address"):
        open_captions(server.url + "/a.parquet")
    with pytest.raises(UserError, match=r"s3:// needs s3fs: pip install s3fs, or this project with its extra"):
        open_captions("s3://bucket/a.tar")
    with pytest.raises(UserError, match="hf://datasets/x/y: OfflineModeIsEnabled"):  # at once
        retries.persist(offline, "hf://datasets/x/y")
    with pytest.raises(UserError, match=r"nonsense:// is not known: give s3://, gs://, hf://, https:// or a path"):
        open_captions("nonsense://bucket/a.tar")


def test_folders_and_patterns_where_a_store_can_list(shards):
    store = fsspec.filesystem("memory")
    for path in shards.iterdir():
        store.pipe(f"/bucket/set/{path.name}", path.read_bytes())
    store.pipe("/bucket/set/deep/val-1.tar", (shards / "val-0.tar").read_bytes())
    local = batches(shards)
    assert batches("memory://bucket/set") == batches("memory://bucket/set/", workers=2) == local
    assert batches("memory://bucket/set/train-*.tar") == batches("memory://bucket/set/train-{0..2}.tar") == local
    first, last = "memory://bucket/set/train-0.tar", "memory://bucket/set/train-2.tar"
    assert open_captions(f"{first}::{last}").counts.tolist() == [25, 30]
    with pytest.raises(UserError, match=r"memory://bucket/none holds no .tar"):
        open_captions("memory://bucket/none")
    with pytest.raises(UserError, match=r"cannot read memory://bucket/none.tar: it does not exist; check the address"):
        open_captions("memory://bucket/none.tar")


def test_parquet_goes_through_datasets(tmp_path, server, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    columns = {"image": [numbered(n) for n in range(20)], "caption": [f"number {n}" for n in range(20)]}
    for half, rows in (("a", slice(0, 12)), ("b", slice(12, 20))):
        table = pyarrow.table({name: values[rows] for name, values in columns.items()})
        pyarrow.parquet.write_table(table, tmp_path / "shards" / f"{half}.parquet")
    data = open_captions(server.url + "/{a,b}.parquet")
    assert [data.caption(number) for number in (0, 11, 12, 19)] == [
        b"number 0",
        b"number 11",
        b"number 12",
        b"number 19",
    ]
    assert data.read(3)[0] == columns["image"][3]


def test_brackets_in_a_stores_names_are_no_pattern(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    for name, caption in (("x[1]", "mine"), ("x1", "another")):
        pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"], "caption": [caption]}), tmp_path / "a.parquet")
        fsspec.filesystem("memory").pipe(f"/brackets/{name}.parquet", (tmp_path / "a.parquet").read_bytes())
    assert open_captions("memory://brackets/*1?.parquet").caption(0) == b"mine"


def test_reading_ahead_saves_requests(shards, server):
    data = open_captions(server.url + "/train-2.tar")
    server.requests.clear()
    numbers = range(30)
    data.prefetch(numbers)
    assert [data.caption(number) for number in numbers] == [b"number %d" % number for number in range(30, 60)]
    assert [method for method, *_ in server.requests] == ["HEAD", "GET"]  # all lies close together


def test_literal_merging(monkeypatch):
    monkeypatch.setattr(ahead, "HOLE", 2)
    monkeypatch.setattr(ahead, "LARGEST_REQUEST", 30)
    pieces = [(1, 0, 5), (0, 12, 8), (0, 0, 10), (0, 23, 1), (0, 24, 9), (0, 34, 1)]
    assert list(merged(pieces)) == [
        (0, 0, 20, [(0, 0, 10), (0, 12, 8)]),
        (0, 23, 35, [(0, 23, 1), (0, 24, 9), (0, 34, 1)]),
        (1, 0, 5, [(1, 0, 5)]),
    ]


def test_names_leave_out_secrets():
    url = "https://me:word@host/set/a%20b.tar?X-Amz-Signature=f00"
    assert (remote.place(url), remote.public_url(url)) == ("host/set/a b.tar", "https://host/set/a%20b.tar")
    assert remote.place("https://host/get?file=7.tar") == "host/get?file=7.tar"
    assert remote.suffix("https://host/get?file=7.tar") == remote.suffix(url) == ".tar"
    assert remote.is_remote(url) and not remote.is_remote("file:///a.tar") and not remote.is_remote("/a/b://c")
