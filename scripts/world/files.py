"""Writing a whole world to a folder, in the real data sets' files."""

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.logs import progress, write_json
from world import gqa, pope, vqav2
from world.captions import caption, full_caption
from world.draw import jpeg, render
from world.scenes import Scene, make_scene

VERSION = 1  # counts up when the same arguments make other files
SHARD = 1000  # scenes in a tar, fewer in a small world: at least four training shards


def _member(name: str, data: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member


def write_shards(
    folder: Path, split: str, scenes: list[Scene], keep: set[int], bar: Any
) -> Iterator[tuple[Scene, bytes]]:
    """Tars of `key.jpg` + `key.txt`; yields (scene, JPEG) of the scenes whose index is in `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = min(SHARD, -(-len(scenes) // 4)) if split == "train" else SHARD
    for shard in range(-(-len(scenes) // size)):
        with tarfile.open(folder / f"{split}-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for scene in scenes[shard * size : (shard + 1) * size]:
                picture = jpeg(render(scene))
                for name, data in (("jpg", picture), ("txt", caption(scene).encode())):
                    tar.addfile(_member(f"{scene.image_id:09d}.{name}", data), io.BytesIO(data))
                bar.update()
                if scene.index in keep:
                    yield scene, picture


def _put(path: Path, data: bytes, first: Path | None = None) -> None:
    """Write a picture, or link it to the place where it already is."""
    if first is not None:
        try:
            os.link(first, path)
            return
        except OSError:  # a file system without hard links
            pass
    path.write_bytes(data)


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(", ", ": ")), encoding="utf-8")


def _write_gqa(root: Path, split: str, scenes: list[Scene]) -> int:
    balance, everything = gqa.Balance(), {}
    for scene in scenes:
        everything.update(gqa.records(scene, balance))
    balanced = {id: record for id, record in everything.items() if record["isBalanced"]}
    _dump(root / f"{split}_all_questions.json", everything)
    _dump(root / f"{split}_balanced_questions.json", balanced)
    if split != "testdev":
        _dump(root / f"{split}_choices.json", gqa.choices(everything))
    _dump(root / f"{split}_sceneGraphs.json", {str(scene.image_id): gqa.scene_graph(scene) for scene in scenes})
    return len(balanced)


def _write_vqav2(root: Path, split: str, scenes: list[Scene]) -> int:
    questions, annotations, counts = [], [], Counter()
    for scene in scenes:
        for whole, part in zip((questions, annotations), vqav2.records(scene, counts)):
            whole.extend(part)
    for name, value in vqav2.files(split, questions, annotations).items():
        _dump(root / name, value)
    return len(questions)


def _write_pope(root: Path, scenes: list[Scene], pictures: dict[int, bytes], seed: int, first: Path) -> list[Path]:
    chosen = pope.choose_images(scenes, seed)
    (root / "val2014").mkdir(parents=True)
    for mode in pope.MODES:
        lines = (json.dumps(line) for line in pope.questions(chosen, mode, seed))
        (root / f"coco_pope_{mode}.json").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    paths = []
    for scene in chosen:
        paths.append(root / "val2014" / pope.image_name(scene.image_id))
        _put(paths[-1], pictures[scene.image_id], first / f"{scene.image_id}.jpg")
    return paths


def write_world(root: Path, scenes: int, seed: int, qa_scenes: int) -> dict[str, Any]:
    """Write every file below `root`; returns what world.json holds. Equal arguments give equal bytes."""
    held_out = max(256, scenes // 20)
    sizes = {"train": scenes, "val": held_out, "testdev": held_out}
    asked = {"train": min(qa_scenes, scenes), "val": held_out, "testdev": held_out}
    counts: dict[str, Any] = {}
    captions: dict[str, str] = {}
    images = root / "gqa" / "images"
    images.mkdir(parents=True)
    for split in sizes:
        (root / "vqav2" / vqav2.FOLDERS[split]).mkdir(parents=True)
    with progress(sum(sizes.values()), "drawing", "scene") as bar:
        for split, size in sizes.items():
            everything = [make_scene(seed, split, index) for index in range(size)]
            keep, pictures = set(range(asked[split])), {}
            for scene, picture in write_shards(root / "captions", split, everything, keep, bar):
                pictures[scene.image_id] = picture
                paths = [images / f"{scene.image_id}.jpg", root / "vqav2" / vqav2.image_name(split, scene.image_id)]
                _put(paths[0], picture)
                _put(paths[1], picture, paths[0])
                if split != "train":
                    captions.update((str(path.relative_to(root)), full_caption(scene)) for path in paths)
            chosen = everything[: asked[split]]
            counts[split] = {
                "scenes": size,
                "scenes_with_questions": len(chosen),
                "gqa_balanced": _write_gqa(root / "gqa", split, chosen),
                "vqav2": _write_vqav2(root / "vqav2", split, chosen),
            }
            if split != "train":
                folder = root / ("pope" if split == "testdev" else "pope_val")
                named = {pope.image_name(scene.image_id): full_caption(scene) for scene in chosen}
                paths = _write_pope(folder, chosen, pictures, seed, images)
                captions.update((str(path.relative_to(root)), named[path.name]) for path in paths)
                counts[split]["pope_images"] = len(paths)
    write_json(root / "captions.json", captions)
    world = {"version": VERSION, "scenes": scenes, "seed": seed, "qa_scenes": qa_scenes, "counts": counts}
    write_json(root / "world.json", world)
    return world
