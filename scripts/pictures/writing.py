"""The pictures' files: caption shards, and VQAv2's and POPE's own layouts."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from world.easy_vqa import annotation
from world.formats import write_shard, write_vqav2
from world.making import made_whole

from pictures.asking import MODES, Things, caption, pope_lines, questions
from pictures.licences import readme
from pictures.sources import Picture
from vlm.errors import UserError
from vlm.files import append_jsonl, write_file, write_json
from vlm.images import decode
from vlm.reading import LARGEST_IMAGE, read_regular
from vlm.run.progress import progress

SHARD = 1000  # pictures in a tar
POPE_IMAGES = 500  # as in the real set
# Where a split's questions go: VQAv2's folder and split, and POPE's folder.
PLACES = {
    "train": ("vqav2", "train2014", None),
    "val": ("vqav2", "minival2014", "pope_val"),
    "vendor": ("vqav2", "val2014", "pope"),
    "names": ("vqav2_names", "val2014", "pope_names"),
    "both": ("vqav2_both", "val2014", "pope_both"),
}
Drawn = list[tuple[int, Picture, bytes]]  # id, picture, PNG


def write(out: Path, splits: dict[str, list[Picture]], size: int) -> dict[str, dict[str, int]]:
    """Write everything to `out`, which appears whole; returns the counts of each split.

    size: pixels of the written pictures' sides. Pictures that cannot be used are listed in OUT/refused.jsonl with the
    reason; OUT/README.md has the licences of those that were. Packages have the same pixels under several names: they
    are taken once, by the first split that has them, so that no held-out picture was trained on.
    """
    counts: dict[str, dict[str, int]] = {}
    makers: Counter[str] = Counter()
    taken: dict[bytes, Path] = {}
    with made_whole(out) as root, progress(sum(map(len, splits.values())), "pictures", "picture") as bar:
        for number, (split, pictures) in enumerate(splits.items()):
            drawn: Drawn = []
            for index, picture in enumerate(pictures):
                try:
                    data = _drawn(picture, size)
                    _take_once(taken, data, picture)
                    drawn.append((1_000_000 * (number + 1) + index, picture, data))
                except UserError as error:
                    append_jsonl(root / "refused.jsonl", {"file": str(picture.path), "reason": str(error)})
                bar.update()
            makers.update(picture.maker for _, picture, _ in drawn)
            asked, probed = _write_split(root, split, drawn) if drawn else (0, 0)
            refused = len(pictures) - len(drawn)
            counts[split] = {"pictures": len(drawn), "questions": asked, "pope": probed, "refused": refused}
        write_file(root / "README.md", readme(set(makers), size))
        write_json(root / "pictures.json", {"size": size, "splits": counts, "makers": makers})
    return counts


def _drawn(picture: Picture, size: int) -> bytes:
    """The picture on a white square, as PNG.

    Raises: UserError if it cannot be opened, or nothing is on it: clip art in white, or an empty canvas.
    """
    try:
        image = decode(read_regular(picture.path, LARGEST_IMAGE))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from None
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    if square.getextrema() == ((255, 255),) * 3:
        raise UserError("shows nothing: it is empty, or white on white")
    file = io.BytesIO()
    square.save(file, format="PNG")
    return file.getvalue()


def _take_once(taken: dict[bytes, Path], data: bytes, picture: Picture) -> None:
    """Note the PNG. Raises: UserError if one with the same pixels is noted."""
    pixels = hashlib.sha256(data).digest()
    if pixels in taken:
        raise UserError(f"the same pixels as {taken[pixels]}, taken already")
    taken[pixels] = picture.path


def _write_split(root: Path, split: str, drawn: Drawn) -> tuple[int, int]:
    """Write a split's captions and questions; returns how many questions VQAv2's form and POPE's have."""
    _write_captions(root / "captions", split, drawn)
    things = Things([picture for _, picture, _ in drawn])
    vqav2, official, pope = PLACES[split]
    asked = _write_vqav2(root / vqav2, official, drawn, things)
    probed = _write_pope(root / pope, drawn, things) if pope else 0
    return asked, probed


def _write_captions(folder: Path, split: str, drawn: Drawn) -> None:
    """A set of tars for each maker: retrieval among pictures of one maker has one right answer a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for maker in dict.fromkeys(picture.maker for _, picture, _ in drawn):
        own = [(key, data, caption(picture, str(key))) for key, picture, data in drawn if picture.maker == maker]
        for number, start in enumerate(range(0, len(own), SHARD)):
            write_shard(folder / f"{split}-{maker}-{number:06d}.tar", "png", own[start : start + SHARD])


def _image_name(folder: str, key: int) -> str:
    return f"COCO_{folder}_{key:012d}.png"


def _write_vqav2(root: Path, split: str, drawn: Drawn, things: Things) -> int:
    folder = "val2014" if split == "minival2014" else split  # as COCO's minival
    (root / folder).mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    annotations: list[dict] = []
    for key, picture, data in drawn:
        (root / folder / _image_name(folder, key)).write_bytes(data)
        for number, (question, answer) in enumerate(questions(picture, things, str(key))):
            ids = {"image_id": key, "question_id": key * 100 + number}
            records.append({**ids, "question": question})
            annotations.append({**ids, **annotation(question, answer)})
    head = {"info": {"description": "scripts/prepare_pictures.py", "version": "2.0"}, "data_type": "mscoco"}
    head |= {"license": {"name": "see ../README.md", "url": ""}, "data_subtype": folder}
    write_vqav2(root, split, head, records, annotations)
    return len(records)


def _write_pope(root: Path, drawn: Drawn, things: Things) -> int:
    """Every n-th picture, 500 at most; returns the questions of all three categories."""
    step = max(1, len(drawn) // POPE_IMAGES)
    chosen = drawn[::step][:POPE_IMAGES]
    (root / "val2014").mkdir(parents=True)
    for key, _, data in chosen:
        (root / "val2014" / _image_name("val2014", key)).write_bytes(data)
    named: Sequence[tuple[str, Picture]] = [(_image_name("val2014", key), picture) for key, picture, _ in chosen]
    total = 0
    for mode in MODES:
        lines = pope_lines(named, things, mode)
        total += len(lines)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"coco_pope_{mode}.json").write_text(text, encoding="utf-8")
    return total
