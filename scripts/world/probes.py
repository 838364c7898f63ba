"""Small labelled sets for the probes of an encoder, in the layouts of ImageNet, ADE20K and ImageNet-9.

    classes/{train,val}/CLASS/*.jpg                          one object a picture
    segmentation/images/{training,validation}/*.jpg          scenes
    segmentation/annotations/{training,validation}/*.png     1 to 8 = CATEGORIES, 9 = backdrop; ADE20K ignores 0
    backgrounds/{original,mixed_same,mixed_rand}/val/NN_CLASS/*.jpg, and original/train/NN_CLASS/*.jpg

In `backgrounds` every class has its habitat, a colour that its backdrops lean to, as real animals have theirs: a probe
fitted on original/train may learn the habitat instead of the shape. mixed_same shows each object before the backdrop of
another picture of its class, so the cue stays; mixed_rand before one of another class, so the cue misleads.
"""

import colorsys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vlm.run.progress import progress
from world.draw import background, draw, jpeg, object_masks, render
from world.scenes import CATEGORIES, Scene, keyed, make_scene, single_object

IN_CLASS = {"train": 40, "val": 20}  # pictures of each class, in `classes` as in `backgrounds`
MASKS = {"training": ("probe_train", 240), "validation": ("probe_val", 120)}
HABITAT = 26  # how far a backdrop leans to its class's colour; backdrops differ by about as much among themselves


def habitat(category: str, seed: int, split: str, index: int) -> np.ndarray:
    """The backdrop of one picture of `backgrounds`, float32[48, 48, 3]."""
    rng = keyed(seed, split, index, f"habitat {category}")
    color = np.array(colorsys.hsv_to_rgb(CATEGORIES.index(category) / len(CATEGORIES), 1, 1), np.float32)
    return background(rng) + HABITAT * rng.uniform(0.5, 1.5) * (2 * color - 1)


def variants(scene: Scene) -> dict[str, np.ndarray]:
    """A val object before its own backdrop, one of its class, and one of another class: uint8[48, 48, 3] each."""
    rng, category, count = scene.rng("mixed"), scene.things[0].category, IN_CLASS["val"]
    place = scene.index // len(CATEGORIES) % count  # in its class
    backdrops = {
        "original": (category, place),
        "mixed_same": (category, (place + rng.randrange(1, count)) % count),
        "mixed_rand": (rng.choice([name for name in CATEGORIES if name != category]), rng.randrange(count)),
    }
    return {
        name: draw(scene.things, habitat(owner, scene.seed, scene.split, number))
        for name, (owner, number) in backdrops.items()
    }


def pictures(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """(path without suffix, uint8[48, 48, 3]) of every picture of `classes` and `backgrounds`."""
    for split, count in IN_CLASS.items():
        for index in range(2 * count * len(CATEGORIES)):  # the first half for `classes`, the second for `backgrounds`
            scene = single_object(seed, f"probe_{split}", index)
            number, place = index % len(CATEGORIES), index // len(CATEGORIES)
            category, folder = CATEGORIES[number], f"{number:02d}_{CATEGORIES[number]}"
            if place < count:
                yield f"classes/{split}/{category}/{place:04d}", render(scene)
            elif split == "train":
                backdrop = habitat(category, seed, scene.split, place - count)
                yield f"backgrounds/original/train/{folder}/{place - count:04d}", draw(scene.things, backdrop)
            else:
                for name, picture in variants(scene).items():
                    yield f"backgrounds/{name}/val/{folder}/{place - count:04d}", picture


def labels(scene: Scene) -> np.ndarray:
    """uint8[48, 48]: which category each pixel shows, 1 to 8 in their order, 9 for none."""
    masks = object_masks(scene)
    return np.where(masks == 0, np.uint8(len(CATEGORIES) + 1), masks)


def write_probes(root: Path, seed: int) -> None:
    """Write the three folders below `root`: a few hundred pictures each, the same for every size of the world."""
    masks = sum(count for _, count in MASKS.values())
    total = masks + len(CATEGORIES) * (2 * IN_CLASS["train"] + 4 * IN_CLASS["val"])
    with progress(total, "drawing for probes", "picture") as bar:
        for name, picture in pictures(seed):
            path = root / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(picture))
            bar.update()
        for folder, (split, count) in MASKS.items():
            images, annotations = (root / "segmentation" / kind / folder for kind in ("images", "annotations"))
            for path in (images, annotations):
                path.mkdir(parents=True)
            for index in range(count):
                scene = make_scene(seed, split, index)
                (images / f"{index:08d}.jpg").write_bytes(jpeg(render(scene)))
                Image.fromarray(labels(scene)).save(annotations / f"{index:08d}.png")
                bar.update()
