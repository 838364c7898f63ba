"""The probes' sets in the world: official layouts, true masks, and backgrounds that tell the class or mislead."""

from collections import Counter

import numpy as np
from PIL import Image
from world import probes, scenes

CATEGORIES = sorted(scenes.CATEGORIES)
NUMBERED = [f"{number:02d}_{name}" for number, name in enumerate(scenes.CATEGORIES)]


def counts(folder):
    return dict(sorted(Counter(path.parent.name for path in folder.glob("*/*.jpg")).items()))


def read(path):
    return np.array(Image.open(path)).astype(int)


def test_layouts_and_counts(world_root):
    assert counts(world_root / "classes/train") == dict.fromkeys(CATEGORIES, 40)
    assert counts(world_root / "classes/val") == dict.fromkeys(CATEGORIES, 20)
    assert counts(world_root / "segmentation/images") == {"training": 240, "validation": 120}
    backgrounds = world_root / "backgrounds"
    assert counts(backgrounds / "original/train") == dict.fromkeys(NUMBERED, 40)
    for name in ("original", "mixed_same", "mixed_rand"):
        assert counts(backgrounds / name / "val") == dict.fromkeys(NUMBERED, 20)


def test_no_picture_is_in_two_places(world_root):
    folders = ("classes", "segmentation", "backgrounds", "gqa")
    pictures = [path.read_bytes() for folder in folders for path in (world_root / folder).rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures) == 480 + 360 + 800 + 820


def test_masks_say_what_each_pixel_of_the_scene_shows(world_root):
    for folder, split in (("training", "probe_train"), ("validation", "probe_val")):
        for index in (7, 9):  # their objects differ in colour
            scene = scenes.make_scene(5, split, index)
            mask = Image.open(world_root / f"segmentation/annotations/{folder}/{index:08d}.png")
            image = read(world_root / f"segmentation/images/{folder}/{index:08d}.jpg")
            labels = np.array(mask)
            assert mask.mode == "L" and labels.shape == image.shape[:2]
            shown = {scenes.CATEGORIES.index(thing.category) + 1 for thing in scene.things}
            assert set(np.unique(labels)) == shown | {9}
            for thing in scene.things:  # its paint lies where the mask has its category
                paint = np.abs(image - thing.rgb).max(-1) < 30
                assert (labels[paint] == scenes.CATEGORIES.index(thing.category) + 1).mean() > 0.8


def test_one_object_a_picture_at_the_class_it_has():
    drawn = [scenes.single_object(0, "probe_val", index) for index in range(16)]
    assert [scene.things[0].category for scene in drawn] == list(scenes.CATEGORIES) * 2
    assert all(len(scene.things) == 1 for scene in drawn)
    assert drawn[3] == scenes.single_object(0, "probe_val", 3) != scenes.single_object(1, "probe_val", 3)


def backdrop(picture, border=4):
    """Mean colour of a picture's rim, less its grey: float[3]."""
    rim = np.ones(picture.shape[:2], bool)
    rim[border:-border, border:-border] = False
    colour = np.median(picture[rim], axis=0)
    return colour - colour.mean()


def test_backgrounds_keep_the_object_and_tell_the_class_or_mislead(world_root):
    root = world_root / "backgrounds"
    centres = np.array(
        [np.mean([backdrop(read(path)) for path in (root / "original/train" / name).iterdir()], 0) for name in NUMBERED]
    )
    told = {}
    for variant in ("original", "mixed_same", "mixed_rand"):
        right = [
            np.linalg.norm(centres - backdrop(read(path)), axis=1).argmin() == number
            for number, name in enumerate(NUMBERED)
            for path in (root / variant / "val" / name).iterdir()
        ]
        told[variant] = np.mean(right)
    assert min(told["original"], told["mixed_same"]) > 0.5 > 0.15 > told["mixed_rand"]


def test_variants_differ_in_their_backdrop_alone():
    scene = scenes.single_object(5, "probe_val", 163)  # a tree
    drawn = probes.variants(scene)
    assert list(drawn) == ["original", "mixed_same", "mixed_rand"]
    tree = np.array(probes.labels(scene)) == scenes.CATEGORIES.index("tree") + 1
    for name in ("mixed_same", "mixed_rand"):
        same = (drawn[name] == drawn["original"]).all(-1)
        assert same[tree].mean() > 0.7 and same[~tree].mean() < 0.1
