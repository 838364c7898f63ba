"""Training sets as columns: parsed in pieces, once; several splits as one set."""

import os

import pytest
from tiny import hub as tables
from tiny import pictures
from tiny.official import gqa_question, vqav2_annotation, vqav2_question, write_vqav2

from bridge.data import json_stream, official, training_sets
from bridge.data.example import Example
from bridge.data.json_stream import members
from vlm.errors import UserError
from vlm.files import read_json, write_json


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(json_stream, "READ", 7)  # characters: every record lies across several reads


def test_train_and_val_together(tmp_path):
    for split, number in (("train2014", 1), ("val2014", 2)):
        answers = [vqav2_annotation(number, ["2"] * 7 + ["3"] * 3, image=number)]
        write_vqav2(tmp_path, split, [vqav2_question(number, number, "How many?")], answers)
        pictures.save(pictures.noise(16, 16, seed=1), tmp_path / split / f"COCO_{split}_{number:012d}.jpg")
    train, val = training_sets.vqav2(tmp_path, "train2014+val2014")
    votes = ("2",) * 7 + ("3",) * 3
    image = tmp_path / "val2014/COCO_val2014_000000000002.jpg"
    assert [example.question_id for example in train] == ["1"]
    assert list(val) == [Example("2", image, "How many?", "2", votes)]


def test_a_file_is_parsed_once_and_again_if_it_changes(tmp_path, monkeypatch):
    pictures.save(pictures.noise(16, 16, seed=1), tmp_path / "images/1.jpg")
    file = tmp_path / "train_balanced_questions.json"
    write_json(file, {"07": gqa_question("red", question='What "is" ü {it}?')})
    first = training_sets.gqa(tmp_path, "train")[0]
    with monkeypatch.context() as patched:
        patched.setattr(json_stream, "members", None)  # nothing may parse
        again = training_sets.gqa(tmp_path, "train")[0]
    assert list(again) == list(first) == [Example("07", tmp_path / "images/1.jpg", 'What "is" ü {it}?', "red")]
    assert again.digest(votes=True) == first.digest(votes=True)
    write_json(file, {"07": gqa_question("blue")})
    os.utime(file, (1, 1))
    changed = training_sets.gqa(tmp_path, "train")[0]
    assert changed[0].answer == "blue" and changed.digest(votes=False) != first.digest(votes=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "b": [2, 3], "c": {"d": [4.5, 12345678901]}}',
         [("a", 1), ("b", 2), ("b", 3), ("c", {"d": [4.5, 12345678901]})]),
        (" {} ", []),
        ('\ufeff{"a" : "x"}', [("a", "x")]),
        (' [1, {"c": [2]}] ', [("b", 1), ("b", {"c": [2]})]),
    ],
)  # fmt: skip
def test_members_are_those_of_json(tmp_path, text, expected):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert list(members(tmp_path / "a.json", inside="b")) == expected


@pytest.mark.parametrize("text", ['{"a": 1', '{"a": [1, 2', "[1", "", '{"a" 1}', '{"a": 1 "b": 2}'])
def test_what_is_no_object_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        list(members(tmp_path / "a.json", inside="b" if text == "[1" else None))


def test_a_list_where_an_object_is_needed_is_called_one(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json holds a list; needed is one object, key -> record: fetch it again"):
        list(members(tmp_path / "a.json"))


def test_a_vqav2_file_may_be_the_bare_list(tmp_path):
    """As for evaluation."""
    write_vqav2(tmp_path, "val2014", [vqav2_question(7, 1, "How many?")], [vqav2_annotation(7, ["2"] * 10, image=1)])
    pictures.save(pictures.noise(16, 16, seed=1), tmp_path / "val2014/COCO_val2014_000000000001.jpg")
    [whole] = training_sets.vqav2(tmp_path, "val2014")
    for file, kind in (
        ("OpenEnded_mscoco_val2014_questions", "questions"),
        ("mscoco_val2014_annotations", "annotations"),
    ):
        path = tmp_path / f"v2_{file}.json"
        write_json(path, read_json(path)[kind])
    [bare] = training_sets.vqav2(tmp_path, "val2014")
    assert list(bare) == list(whole) == [
        Example("7", tmp_path / "val2014/COCO_val2014_000000000001.jpg", "How many?", "2", ("2",) * 10)
    ]  # fmt: skip


def test_the_records_of_a_table_can_be_read_again(benchmark_files, tmp_path):
    root = tables.write_vqav2(benchmark_files / "vqav2", tmp_path / "VQAv2")
    source = training_sets._vqav2(root, "val2014")
    first = list(source.rows())
    assert len(first) == len(official.read_vqav2(root, "val2014")[0])
    assert list(source.rows()) == first
