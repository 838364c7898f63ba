"""The embedded world's files and pictures: equal bytes for equal arguments, whole or not at all."""

import hashlib
import re

import commands
import numpy as np
import webdataset
from world import captions, draw, files, scenes
from world.making import make

from vlm.files import read_json


def command(out, *flags):
    return commands.start("scripts/make_world.py", out, "--scenes", "60", "--qa-scenes", "20", *flags)


def test_shards_are_read_by_webdataset_and_captions_name_every_shape(world_root):
    graphs = read_json(world_root / "gqa/train_sceneGraphs.json")
    shards = sorted(str(path) for path in (world_root / "captions").glob("train-*.tar"))
    assert len(shards) == 4
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("__key__", "jpg", "txt"))
    assert [int(key) for key, _, _ in samples] == [1_000_000 + index for index in range(60)]
    for key, picture, text in samples:
        assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
        for thing in graphs.get(str(int(key)), {"objects": {}})["objects"].values():
            assert re.search(rf"\b{thing['name']}(s)?\b", text), (text, thing)


def test_splits_share_no_image_and_captions_cover_every_held_out_file(world_root):
    ids = [set(read_json(world_root / f"gqa/{split}_sceneGraphs.json")) for split in ("train", "val", "testdev")]
    assert [len(part) for part in ids] == [20, 400, 400] and len(set.union(*ids)) == 820
    pictures = [path.read_bytes() for path in (world_root / "gqa/images").iterdir()]
    assert len(set(pictures)) == len(pictures) == 820
    held_out = ("vqav2/val2014", "vqav2/test2015", "pope/val2014", "pope_val/val2014")
    expected = {str(path.relative_to(world_root)) for folder in held_out for path in (world_root / folder).iterdir()}
    expected |= {f"gqa/images/{id}.jpg" for id in ids[1] | ids[2]}
    assert set(read_json(world_root / "captions.json")) == expected


def test_equal_arguments_give_equal_bytes_and_another_seed_other_pictures(world_root, world_arguments, tmp_path):
    def digests(folder):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    make(tmp_path / "again", **world_arguments)
    assert digests(world_root) == digests(tmp_path / "again")
    drawn = [scenes.make_scene(6, "train", index) for index in range(60)]
    files.write_shards(tmp_path, "train", drawn, 0)
    first = "train-000000.tar"
    assert (tmp_path / first).read_bytes() != (world_root / "captions" / first).read_bytes()


def test_an_existing_folder_is_reused_or_refused(tmp_path):
    stale = tmp_path / ".world.partial-killed"
    stale.mkdir()
    (tmp_path / "world").mkdir()  # an empty folder is as good as none
    made = command(tmp_path / "world")
    assert made.returncode == 0 and "scenes/s" in made.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    again = command(tmp_path / "world")
    assert again.returncode == 0 and "reused" in again.stdout
    other = command(tmp_path / "world", "--seed", "1")
    assert other.returncode == 2 and "seed 0, asked 1" in other.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert command(tmp_path / "mine").returncode == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def thing(**changes):
    plain = {"id": "1", "category": "star", "color": "red", "size": "large", "x": 12.0, "y": 12.0, "pixels": 20}
    return scenes.Thing(**{**plain, "rgb": (200, 40, 40), **changes})


def test_the_full_caption_names_every_object():
    things = (thing(), thing(category="fish", color="orange", size="small", x=36.0), thing(x=36.0, y=36.0))
    assert captions.full_caption(scenes.Scene(0, "val", 0, things)) == (
        "a large red star, a small orange fish and a large red star"
    )


def test_masks_boxes_and_pictures_agree():
    scene = scenes.Scene(0, "val", 0, (thing(category="house", x=14.0, y=12.5), thing(category="cup", x=36.0, y=36.0)))
    masks = draw.object_masks(scene)
    assert set(np.unique(masks)) == {0, 5, 7}  # house and cup
    x, y, w, h = draw.bounding_box(scene.things[0])
    rows, columns = np.nonzero(masks == 5)
    assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, w, h)
    assert (w, h) == (19, 19)  # 20 wide; the eaves end in thin points
    one, other = (draw.draw(scene.things, draw.background(scenes.keyed(0, "val", n, "background"))) for n in (1, 2))
    changed = np.abs(one.astype(int) - other).max(-1) > 0
    assert changed[masks == 0].mean() > 0.9  # another backdrop
    core = (masks == 5)[1:-1, 1:-1] & ~changed[1:-1, 1:-1]
    assert core.sum() > 0.8 * (masks == 5).sum()  # the same object, but for its soft edge


def test_shapes_differ_without_their_colours():
    """The overlap of two categories' silhouettes stays far from one."""
    cover = {name: draw.silhouette(name, 15, 0.0, 0.0)[0] < 0.5 for name in scenes.CATEGORIES}
    for a in scenes.CATEGORIES:
        for b in scenes.CATEGORIES:
            if a < b:
                overlap = (cover[a] & cover[b]).sum() / (cover[a] | cover[b]).sum()
                assert overlap < 0.8, (a, b, overlap)
