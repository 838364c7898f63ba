"""The hub's tables give the questions, answers, names and pictures of the official folders."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import hub as tables

from bridge.data import official
from bridge.data.pictures import TableImage, open_picture, picture_bytes, picture_digest
from bridge.evaluation.benchmarks import read_pope
from vlm.errors import UserError


def same(ours, theirs) -> bool:
    """Equal but for where the picture lies."""
    said = [(e.question_id, e.image.name, e.question, e.answer, e.votes, picture_bytes(e.image)) for e in ours]
    return said == [
        (e.question_id, e.image.name, e.question, e.answer, e.votes, picture_bytes(e.image)) for e in theirs
    ]


def test_gqa(benchmark_files, tmp_path):
    root = tables.write_gqa(benchmark_files / "gqa", tmp_path / "GQA", "testdev")
    examples, records = official.read_gqa(root, "testdev")
    expected, truth = official.read_gqa(benchmark_files / "gqa", "testdev")
    assert same(examples, expected)
    assert {key: record["entailed"] for key, record in records.items()} == {key: [] for key in truth}
    assert [record["types"] for record in records.values()] == [record["types"] for record in truth.values()]
    image = root / "testdev_balanced_images/testdev-00001-of-00002.parquet"
    assert examples[2].image == TableImage(image, 0, "11.jpg")


def test_vqav2_an_image_of_many_rows_is_one_picture(benchmark_files, tmp_path):
    root = tables.write_vqav2(benchmark_files / "vqav2", tmp_path / "VQAv2")
    examples, annotations = official.read_vqav2(root, "val2014")
    expected, truth = official.read_vqav2(benchmark_files / "vqav2", "val2014")
    assert same(examples, expected)
    assert {key: annotations[key]["answers"] for key in truth} == {key: truth[key]["answers"] for key in truth}
    table = root / "data/validation-00000-of-00001.parquet"
    assert [e.image for e in examples] == [
        TableImage(table, 0, "COCO_val2014_000000000007.jpg"),
        TableImage(table, 0, "COCO_val2014_000000000007.jpg"),
        TableImage(table, 2, "COCO_val2014_000000000008.jpg"),
    ]
    encoded = picture_bytes(examples[0].image)
    assert picture_digest(examples[0].image) == hashlib.blake2b(encoded, digest_size=16).hexdigest()
    assert open_picture(examples[2].image).size == (24, 24)


@pytest.mark.parametrize("full", [False, True])
def test_pope(benchmark_files, tmp_path, full):
    root = tables.write_pope(benchmark_files / "pope", tmp_path / "POPE", full)
    for category in official.POPE_CATEGORIES:
        assert same(official.pope(root, category), official.pope(benchmark_files / "pope", category))
    benchmark = read_pope(root)  # the three categories ask about the same images
    assert len(benchmark.images) == len(read_pope(benchmark_files / "pope").images) == 2
    few = [example.question_id for example in benchmark.first_images(1).examples]
    assert few == [f"{category}/{number}" for category in official.POPE_CATEGORIES for number in (3, 4)]


def test_one_category_of_pope_alone(benchmark_files, tmp_path):
    root = tables.write_pope(benchmark_files / "pope", tmp_path / "POPE", full=True)
    for category in ("adversarial", "popular"):
        (root / f"Full/{category}-00000-of-00001.parquet").unlink()
    assert same(official.pope(root, "random"), official.pope(benchmark_files / "pope", "random"))


def test_a_repository_in_the_hub_cache(benchmark_files, tmp_path):
    cached = tmp_path / "datasets--lmms-lab--POPE"
    tables.write_pope(benchmark_files / "pope", cached / "snapshots/abc")
    assert len(official.pope(cached, "random")) == 4


def no_train(root: Path) -> None:
    official.vqav2(root / "VQAv2", "train2014")


def lacking_shard(root: Path) -> None:
    (root / "GQA/testdev_balanced_images/testdev-00001-of-00002.parquet").unlink()
    official.gqa(root / "GQA", "testdev")


def lacking_split(root: Path) -> None:
    official.gqa(root / "GQA", "val")


def damaged(root: Path) -> None:
    file = root / "VQAv2/data/validation-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    official.vqav2(root / "VQAv2", "val2014")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (no_train, r"no split train2014: lmms-lab's VQAv2 comes without train2014, .* validation; .*--vqav2-split val"),
        (lacking_shard, r"1 of 2 tables are missing, the first: .*testdev-00001-of-00002.parquet"),
        (lacking_split, r"no tables val_balanced_instructions/.*testdev_balanced_images"),
        (damaged, r"validation-00000-of-00001.parquet cannot be read as parquet"),
    ],
)
def test_what_is_missing_is_one_line(benchmark_files, tmp_path, break_it, message):
    tables.write_gqa(benchmark_files / "gqa", tmp_path / "GQA", "testdev")
    tables.write_vqav2(benchmark_files / "vqav2", tmp_path / "VQAv2")
    with pytest.raises(UserError, match=message):
        break_it(tmp_path)


def test_an_id_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="lmms-lab/NoSuch is no folder, is not in the local Hugging Face cache"):
        official.pope("lmms-lab/NoSuch", "random")


def test_a_hub_id_is_read_from_the_cache_without_a_network(benchmark_files, tmp_path):
    """In a process of its own: the hub's library reads its settings once."""
    repository = tmp_path / "hub/datasets--lmms-lab--POPE"
    tables.write_pope(benchmark_files / "pope", repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    code = "from bridge.data import official; print(len(official.pope('lmms-lab/POPE', 'random')))"
    here = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr
