"""Records of official files by question id, and one line for files of another kind."""

import json

import pytest

from bridge.data import official
from vlm.errors import UserError
from vlm.files import write_json


def test_records_are_by_id_as_text(tmp_path):
    records = [{"question_id": 7, "answers": []}, {"question_id": "07", "answers": []}]
    write_json(tmp_path / "a.json", {"annotations": records})
    found = official.vqav2_records(tmp_path / "a.json", "annotations")
    assert found == {"7": records[0], "07": records[1]}
    (tmp_path / "p.json").write_text("".join(json.dumps({"question_id": n, "label": "no"}) + "\n" for n in (2, 1)))
    assert list(official.pope_records(tmp_path / "p.json")) == ["2", "1"]


def test_an_id_that_occurs_twice(tmp_path):
    write_json(tmp_path / "a.json", {"annotations": [{"question_id": 7}, {"question_id": 9}, {"question_id": "7"}]})
    with pytest.raises(UserError, match=r"a\.json: 1 question ids occur more than once, the first: 7"):
        official.vqav2_records(tmp_path / "a.json", "annotations")
    (tmp_path / "p.json").write_text('{"question_id": 1}\n{"question_id": 1}\n')
    with pytest.raises(UserError, match=r"p\.json: 1 question ids occur more than once, the first: 1"):
        official.pope_records(tmp_path / "p.json")


def test_records_without_an_id(tmp_path):
    (tmp_path / "p.json").write_text('{"question_id": 1}\n{"label": "no"}\n')
    with pytest.raises(UserError, match=r"p\.json, record 2: the field 'question_id' \(int or str\)"):
        official.pope_records(tmp_path / "p.json")


def test_a_folder_without_chunks_and_no_file(tmp_path):
    with pytest.raises(UserError, match=r"has no \.json files; give a GQA questions or choices file"):
        official.gqa_records(tmp_path)
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        official.gqa_records(tmp_path / "none.json")


def test_choices_are_read_if_they_are_there(tmp_path):
    assert official.gqa_choices(tmp_path, "val_all") is None
    write_json(tmp_path / "val_choices.json", {"1": {"valid": ["red"], "plausible": []}})
    assert official.gqa_choices(tmp_path, "val_all") == {"1": {"valid": ["red"], "plausible": []}}


def test_choices_in_chunks(tmp_path):
    """As those of train are distributed."""
    chunks = [{"1": {"valid": ["red"], "plausible": []}}, {"2": {"valid": [], "plausible": ["cat"]}}]
    for number, chunk in enumerate(chunks):
        write_json(tmp_path / f"train_choices/train_choices_{number}.json", chunk)
    for split in ("train", "train_all"):
        assert official.gqa_choices(tmp_path, split) == chunks[0] | chunks[1]
