"""pretrain.data.samples: which files belong together."""

import pytest

from pretrain.data.samples import Fields, Member, group, split_last

CASES = {  # name: (files, fields, by the last dot alone, samples as (key, image, caption) or (key, fault))
    "dots in the keys": (
        "v1.01.jpg v1.01.txt v1.01.json v1.02.JPG v1.02.TXT v1.03.jpg",
        Fields(), False,
        [("v1.01", "v1.01.jpg", "v1.01.txt"), ("v1.02", "v1.02.JPG", "v1.02.TXT"), ("v1.03", "no caption")],
    ),
    "dots in the keys, images first": (
        "v.1.jpg v.2.jpg v.1.txt v.2.txt",
        Fields(), False,
        [("v.1", "v.1.jpg", "v.1.txt"), ("v.2", "v.2.jpg", "v.2.txt")],
    ),
    "one plain pair and one with dots": (
        "a.jpg a.txt a.v2.jpg a.v2.txt",
        Fields(), False,
        [("a", "a.jpg", "a.txt"), ("a.v2", "a.v2.jpg", "a.v2.txt")],
    ),
    "images with dots and no caption": (
        "v.1.jpg v.2.jpg", Fields(), False, [("v.1", "no caption"), ("v.2", "no caption")]
    ),
    "further fields as webdataset has them": (
        "a.seg.png a.jpg a.txt a.cls b.jpg b.txt b.seg.png",
        Fields(), False,
        [("a", "a.jpg", "a.txt"), ("b", "b.jpg", "b.txt")],
    ),
    "a field with a dot is named": (
        "a.left.jpg a.right.jpg a.txt x.1.left.jpg x.1.txt",
        Fields(images=("left.jpg",)), False,
        [("a", "a.left.jpg", "a.txt"), ("x.1", "x.1.left.jpg", "x.1.txt")],
    ),
    "folders and hidden files": (
        "d.1/a.jpg d.1/a.txt d.2/a.jpg d.2/a.txt d.2/._a.jpg README",
        Fields(), False,
        [("d.1/a", "d.1/a.jpg", "d.1/a.txt"), ("d.2/a", "d.2/a.jpg", "d.2/a.txt")],
    ),
    "the first caption field wins": (
        "a.caption a.jpg a.txt b.caption b.png",
        Fields(captions=("txt", "caption")), True,
        [("a", "a.jpg", "a.txt"), ("b", "b.png", "b.caption")],
    ),
    "a plain folder has no fields with dots": (
        "a.jpg a.seg.png a.txt notes.md", Fields(), True, [("a", "a.jpg", "a.txt"), ("a.seg", "no caption")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups(name):
    files, fields, last_dot, expected = CASES[name]
    found = []
    for sample in group([Member(file, 0, 1) for file in files.split()], fields, last_dot):
        fault = sample.fault()
        found.append((sample.key, fault) if fault else (sample.key, sample.images[0].name, sample.captions[0].name))
    assert found == expected


def test_further_images_are_counted():
    files = "a.jpg a.txt a.seg.png b.jpg b.txt b.depth.png b.seg.json"
    samples = group([Member(file, 0, 1) for file in files.split()], Fields())
    assert [[member.name for member in sample.extra] for sample in samples] == [["a.seg.png"], ["b.depth.png"]]


def test_the_longest_known_ending_is_the_field():
    fields = Fields(captions=("caption.txt", "txt"))
    assert split_last("d/a.b.caption.txt", fields) == ("d/a.b", "caption.txt")
    assert split_last("d/a.b.gif", fields) == ("d/a.b", "gif")
