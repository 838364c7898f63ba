"""pretrain.data.tars: offsets equal to tarfile's, and every kind of damage noticed with exactly what was lost."""

import tarfile

import pytest
from tiny.tars import write_tar

from pretrain.data.samples import Fields
from pretrain.data.shards import open_shard
from pretrain.data.tars import Damage, Member, members, scan

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def pairs(*keys):
    return [(f"{key}.{suffix}", f"{suffix} of {key}".encode()) for key in keys for suffix in ("jpg", "txt")]


def keys_of(path, result):
    """The texts that the offsets of usable samples point at."""
    content = path.read_bytes()
    found = []
    for sample in result.samples:
        image, image_size, caption, caption_size = sample.item()
        assert content[image * 512 :][:image_size].startswith(b"jpg of ")
        found.append(content[caption * 512 :][:caption_size].decode().removeprefix("txt of "))
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_members_equal_tarfile(tmp_path, form):
    folder = tarfile.TarInfo("deep")
    folder.type = tarfile.DIRTYPE
    link = tarfile.TarInfo("deep/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    names = ["a.jpg", "deep/b.txt", "é.jpg", "n/" + "y" * 90 + ".txt"] + ["long/" + "x" * 200 + ".jpg"] * (
        form != "ustar"
    )
    entries = [(folder, None), (link, None), *((name, name.encode() * 77) for name in names), ("empty.txt", b"")]
    path = write_tar(tmp_path / "a.tar", entries, FORMATS[form])
    with tarfile.open(path) as tar:
        expected = [Member(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert list(members(open_shard(path))) == expected


def test_pairs_are_runs_of_one_key(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [("x/a.JPG", b"jpg of a"), ("x/a.json", b"{}"), ("x/a.TXT", b"txt of a"), ("x/._b.jpg", b"mac")])
    result = scan(path, Fields())
    assert (keys_of(path, result), result.unusable, result.damage) == (["a"], [], None)
    assert result.suffixes == ("jpg", "json", "txt")


UNUSABLE = {  # name: (entries after the pair `a` and before the pair `z`, the record of the unusable sample)
    "no caption": ([("b.jpg", b"x"), ("b.json", b"{}")], (1, "b", "no caption")),
    "no image": ([("b.txt", b"x")], (1, "b", "no image")),
    "neither": ([("b.json", b"{}")], (1, "b", "no image")),
    "two images": ([("b.jpg", b"x"), ("b.png", b"x"), ("b.txt", b"x")], (1, "b", "two images")),
    "one name twice": (pairs("b", "b"), (1, "b", "two images")),
    "two captions": ([("b.jpg", b"x"), ("b.txt", b"x"), ("b.txt", b"y")], (1, "b", "two captions")),
    "pickles": ([("b.jpg", b"x"), ("b.pkl", b"cos\nsystem\n"), ("b.pth", b"x")], (1, "b", "no caption")),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_samples(tmp_path, name):
    between, record = UNUSABLE[name]
    path = write_tar(tmp_path / "a.tar", pairs("a") + between + pairs("z"))
    result = scan(path, Fields())
    assert keys_of(path, result) == ["a", "z"]
    assert result.unusable == [record]
    assert result.damage is None


def test_a_key_that_comes_back_is_not_trusted(tmp_path):
    path = write_tar(tmp_path / "a.tar", pairs("a", "b", "a", "c"))
    result = scan(path, Fields())
    assert keys_of(path, result) == ["a", "b", "c"]
    assert result.unusable == [(2, "a", "duplicate key")]


def test_members_that_are_not_neighbours_make_pairs(tmp_path):
    images, captions = pairs(*"abc")[::2], pairs(*"abc")[1::2]
    for order in (images + captions, [*captions, *images[::-1]], [images[0], images[1], *captions, images[2]]):
        result = scan(write_tar(tmp_path / "a.tar", order), Fields())
        assert sorted(keys_of(tmp_path / "a.tar", result)) == ["a", "b", "c"]
        assert result.unusable == []


def test_a_key_with_more_than_one_pair_is_not_put_together(tmp_path):
    entries = [*pairs("a")[:1], *pairs("b"), *pairs("a")[:1], *pairs("c"), *pairs("a")[1:]]
    result = scan(write_tar(tmp_path / "a.tar", entries), Fields())
    assert keys_of(tmp_path / "a.tar", result) == ["b", "c"]
    assert result.unusable == [(0, "a", "no caption"), (2, "a", "duplicate key"), (4, "a", "duplicate key")]


def test_a_cut_among_captions_that_lie_behind_all_images(tmp_path):
    path = write_tar(tmp_path / "a.tar", pairs(*"abc")[::2] + pairs(*"abc")[1::2])
    path.write_bytes(path.read_bytes()[: 4 * 1024])
    result = scan(path, Fields())
    assert keys_of(path, result) == ["a"]
    assert result.unusable == [(1, "b", "lost in a cut shard"), (2, "c", "lost in a cut shard")]


def test_what_lies_behind_a_smashed_header_is_estimated(tmp_path):
    path = write_tar(tmp_path / "a.tar", pairs(*"abcdefghij"))
    content = path.read_bytes()[:20480] + bytes(1024)
    path.write_bytes(content[:8192] + b"x" * 512 + content[8704:])
    result = scan(path, Fields())
    assert keys_of(path, result) == list("abcd")
    assert result.lost == 6


# Three pairs: each member is a header and one block, so sample i starts at 2048 i and its caption's header at + 1024.
DAMAGED = {  # name: (change of the bytes, keys still usable, unusable, words of the damage)
    "cut at a sample's boundary": (lambda b: b[:4096], "ab", [], "no end-of-archive marker"),
    "cut inside a sample": (lambda b: b[:5120], "ab", [(2, "c", "lost in a cut shard")], "no end-of-archive marker"),
    "cut inside a header": (lambda b: b[:5300], "ab", [(2, "c", "lost in a cut shard")], "cut inside a header"),
    "cut inside an image": (lambda b: b[:4610], "ab", [], "cut inside c.jpg"),
    "cut inside a caption": (lambda b: b[:5636], "ab", [(2, "c", "lost in a cut shard")], "cut inside c.txt"),
    "cut inside padding": (lambda b: b[:6000], "abc", [], "no end-of-archive marker"),
    "smashed header": (lambda b: b[:2148] + b"\xff" * 8 + b[2156:], "a", [], "smashed header (byte 2,048"),
    "smashed size": (lambda b: b[:3196] + b"77777777777" + b[3207:], "a", [(1, "b", "lost in a cut shard")], "smashed"),
    "hole": (lambda b: b[:2048] + bytes(1024) + b[3072:], "a", [], "data after the end-of-archive marker"),
    "two tars in one": (lambda b: b + b, "abc", [], "data after the end-of-archive marker"),
    "empty": (lambda b: b"", "", [], "no end-of-archive marker"),
    "HTML": (lambda b: b"<!DOCTYPE html><p>" * 100, "", [], "not a tar file"),
    "short HTML": (lambda b: b"<html>404</html>", "", [], "cut inside a header"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage(tmp_path, name):
    change, usable, unusable, words = DAMAGED[name]
    path = write_tar(tmp_path / "a.tar", pairs(*"abc"))
    path.write_bytes(change(path.read_bytes()))
    result = scan(path, Fields())
    assert keys_of(path, result) == list(usable)
    assert result.unusable == unusable
    assert words in result.damage


def test_every_cut_keeps_only_whole_pairs(tmp_path):
    path = write_tar(tmp_path / "a.tar", pairs(*"abc"))
    whole = path.read_bytes()[:6144]
    for length in range(0, 6144, 100):
        path.write_bytes(whole[:length])
        result = scan(path, Fields())
        complete = [key for i, key in enumerate("abc") if length >= 2048 * i + 1536 + len("txt of x")]
        assert keys_of(path, result) == complete
        assert result.damage


def header(name, kind, length):
    """A header with a correct checksum and `length` written as given."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    raw[124:136], raw[148:156], raw[156:157] = length, b" " * 8, kind
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


HOSTILE = {
    "length of 2^87": header("a.jpg", b"0", b"\x80" + b"\xff" * 11),
    "negative length": header("a.jpg", b"0", b"\xff" * 12),
    "length that is no number": header("a.jpg", b"0", b"12345z789ab\0"),
    "name record beyond the file": header("././@LongLink", b"L", b"00000777777\0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_damage(tmp_path, name):
    path = tmp_path / "a.tar"
    path.write_bytes(HOSTILE[name] + bytes(2048))
    with pytest.raises(Damage):
        list(members(open_shard(path)))


def test_hostile_pax_sizes_are_ignored(tmp_path):
    records = b"20 size=" + b"9" * 5000 + b"\n" + b"9 size=x\n" + b"9 size=-1\n"
    record = header("pax", b"x", b"%011o\0" % len(records)) + records + bytes(-len(records) % 512)
    path = tmp_path / "a.tar"
    path.write_bytes(record + header("a.jpg", b"0", b"%011o\0" % 3) + b"abc".ljust(512, b"\0") + bytes(1024))
    assert [(member.name, member.size) for member in members(open_shard(path))] == [("a.jpg", 3)]
