"""The small benchmarks of `tiny.official` as lmms-lab keeps them on the hub: parquet with images in the rows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlm.files import read_json, read_jsonl

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEW_ROWS = 2  # in a row group, so that a table has several


def picture(file: Path) -> dict:
    return {"bytes": file.read_bytes(), "path": file.name}


def write_table(file: Path, rows: list[dict], row_group_size: int = FEW_ROWS) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        columns[name] = pa.array(values, PICTURE) if name == "image" else pa.array(values)
    pq.write_table(pa.table(columns), file, row_group_size=row_group_size)
    return file


def write_gqa(official: Path, root: Path, split: str) -> Path:
    """The questions in one table, the images in two shards."""
    name = f"{split}_balanced"
    questions = read_json(official / f"{name}_questions.json")
    rows = [{"id": key, **_with_text_lists(record)} for key, record in questions.items()]
    write_table(root / f"{name}_instructions/{split}-00000-of-00001.parquet", rows)
    images = [{"id": file.stem, "image": picture(file)} for file in sorted((official / "images").glob("*.jpg"))]
    for number, part in enumerate((images[::2], images[1::2])):
        write_table(root / f"{name}_images/{split}-0000{number}-of-00002.parquet", part)
    return root


def _with_text_lists(record: dict) -> dict:
    listed = {name: json.dumps(record[name]) for name in ("entailed", "equivalent") if name in record}
    return {**record, **listed}


def write_vqav2(official: Path, root: Path, split: str = "val2014", table: str = "validation") -> Path:
    """A row a question, each with its image."""
    questions = read_json(official / f"v2_OpenEnded_mscoco_{split}_questions.json")["questions"]
    annotations = read_json(official / f"v2_mscoco_{split}_annotations.json")["annotations"]
    rows = []
    for question, annotation in zip(questions, annotations):
        file = official / split / f"COCO_{split}_{question['image_id']:012d}.jpg"
        rows.append({**question, "image": picture(file), **annotation})
    write_table(root / f"data/{table}-00000-of-00001.parquet", rows)
    return root


def write_pope(official: Path, root: Path, full: bool = False) -> Path:
    rows = []
    for category in ("adversarial", "popular", "random"):
        for line in read_jsonl(official / f"coco_pope_{category}.json"):
            file = official / "val2014" / line["image"]
            rows.append({"id": str(len(rows)), "question_id": str(line["question_id"]), "question": line["text"],
                         "answer": line["label"], "image_source": file.stem, "image": picture(file),
                         "category": category})  # fmt: skip
    if full:
        for category in ("adversarial", "popular", "random"):
            part = [row for row in rows if row["category"] == category]
            write_table(root / f"Full/{category}-00000-of-00001.parquet", part)
    else:
        write_table(root / "data/test-00000-of-00001.parquet", rows)
    return root
