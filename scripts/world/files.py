"""Writing a whole world to a folder, in the real data sets' files."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.files import write_json
from vlm.run.progress import progress
from world import gqa, pope, probes, vqav2
from world.captions import caption, full_caption
from world.draw import jpeg, render
from world.formats import dump, write_shard, write_vqav2
from world.scenes import Scene, make_scene

VERSION = 4  # counts up when the same arguments come to mean other files
SHARD = 1000  # scenes in a tar, fewer in a small world: training has at least four


def write_shards(folder: Path, split: str, scenes: list[Scene], keep: int) -> list[bytes]:
    """Tars of `key.jpg` + `key.txt`; returns the JPEGs of the first `keep` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    bar = progress(len(scenes), f"drawing {split}", "scene")
    size = min(SHARD, -(-len(scenes) // 4)) if split == "train" else SHARD
    kept: list[bytes] = []

    def samples(part: list[Scene]) -> Iterator[tuple[int, bytes, str]]:
        for scene in part:
            picture = jpeg(render(scene))
            if len(kept) < keep:
                kept.append(picture)
            yield scene.image_id, picture, caption(scene)
            bar.update()

    for number, start in enumerate(range(0, len(scenes), size)):
        write_shard(folder / f"{split}-{number:06d}.tar", "jpg", samples(scenes[start : start + size]))
    bar.close()
    return kept


def _link(first: Path, path: Path) -> None:
    """Give a picture another name: a hard link, or a copy if the file system has no links."""
    try:
        os.link(first, path)
    except OSError:
        path.write_bytes(first.read_bytes())


def _write_images(root: Path, split: str, scenes: list[Scene], pictures: list[bytes]) -> dict[str, str]:
    """Write GQA's and VQAv2's image files; returns path below `root` -> full caption."""
    (root / "gqa" / "images").mkdir(parents=True, exist_ok=True)
    (root / "vqav2" / vqav2.FOLDERS[split]).mkdir(parents=True)
    captions = {}
    for scene, picture in zip(scenes, pictures):
        names = (f"gqa/images/{scene.image_id}.jpg", f"vqav2/{vqav2.image_name(split, scene.image_id)}")
        (root / names[0]).write_bytes(picture)
        _link(root / names[0], root / names[1])
        captions.update(dict.fromkeys(names, full_caption(scene)))
    return captions


def _write_gqa(folder: Path, split: str, scenes: list[Scene]) -> int:
    balance, everything = gqa.Balance(), {}
    with progress(len(scenes), f"asking {split}", "scene") as bar:
        for scene in scenes:
            everything.update(gqa.records(scene, balance))
            bar.update()
    balanced = {id: record for id, record in everything.items() if record["isBalanced"]}
    dump(folder / f"{split}_all_questions.json", everything)
    dump(folder / f"{split}_balanced_questions.json", balanced)
    if split != "testdev":  # as in the real set
        dump(folder / f"{split}_choices.json", gqa.choices(everything))
    dump(folder / f"{split}_sceneGraphs.json", {str(scene.image_id): gqa.scene_graph(scene) for scene in scenes})
    return len(balanced)


def _write_vqav2(folder: Path, split: str, scenes: list[Scene]) -> int:
    questions, annotations, counts = [], [], Counter()
    for scene in scenes:
        for whole, part in zip((questions, annotations), vqav2.records(scene, counts)):
            whole.extend(part)
    write_vqav2(folder, vqav2.SUBSETS[split], vqav2.head(split), questions, annotations)
    return len(questions)


def _write_pope(root: Path, folder: str, scenes: list[Scene], seed: int) -> dict[str, str]:
    """Write the three files, and their images as links to GQA's; returns path below `root` -> full caption."""
    chosen = pope.choose_images(scenes, seed)
    (root / folder / "val2014").mkdir(parents=True)
    for mode in pope.MODES:
        lines = (json.dumps(line) + "\n" for line in pope.questions(chosen, mode, seed))
        (root / folder / f"coco_pope_{mode}.json").write_text("".join(lines), encoding="utf-8")
    captions = {}
    for scene in chosen:
        name = f"{folder}/val2014/{pope.image_name(scene.image_id)}"
        _link(root / "gqa" / "images" / f"{scene.image_id}.jpg", root / name)
        captions[name] = full_caption(scene)
    return captions


def write_world(root: Path, scenes: int, seed: int, qa_scenes: int) -> tuple[dict[str, Any], float]:
    """Write every file below `root`; returns what world.json holds, and how many scenes a second were drawn.

    val and testdev have max(400, scenes // 20) scenes each, beside the `scenes` of train; all of theirs and the first
    `qa_scenes` of train have questions. Equal arguments give equal bytes.
    """
    held_out = max(400, scenes // 20)
    sizes = {"train": scenes, "val": held_out, "testdev": held_out}
    counts: dict[str, dict[str, int]] = {}
    captions: dict[str, str] = {}
    seconds = 0.0
    for split, size in sizes.items():
        started = time.perf_counter()
        drawn = [make_scene(seed, split, index) for index in range(size)]
        asked = drawn[:qa_scenes] if split == "train" else drawn
        pictures = write_shards(root / "captions", split, drawn, len(asked))
        seconds += time.perf_counter() - started
        named = _write_images(root, split, asked, pictures)
        counts[split] = {
            "scenes": size,
            "scenes_with_questions": len(asked),
            "gqa_balanced_questions": _write_gqa(root / "gqa", split, asked),
            "vqav2_questions": _write_vqav2(root / "vqav2", split, asked),
        }
        if split != "train":
            pictured = _write_pope(root, "pope" if split == "testdev" else "pope_val", asked, seed)
            captions.update(named | pictured)
            counts[split]["pope_images"] = len(pictured)
    write_json(root / "captions.json", captions)
    probes.write_probes(root, seed)
    world = {"version": VERSION, "scenes": scenes, "seed": seed, "qa_scenes": qa_scenes, "counts": counts}
    write_json(root / "world.json", world)
    return world, sum(sizes.values()) / seconds
