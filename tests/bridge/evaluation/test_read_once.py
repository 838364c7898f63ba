"""A benchmark is scored by what was read for its questions: no official file is opened a second time."""

import shutil

from bridge.data import official
from bridge.evaluation import benchmarks
from vlm.files import read_records, write_json

ANSWERS = {
    "gqa": {"01": "yes", "1": "red", "2": "yes", "3": "cat", "4": "dog"},
    "vqav2": {"101": "2", "102": "yes", "103": "cat"},
}


def test_scores_need_no_file(benchmark_files, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(benchmark_files, world)
    choices = {key: {"valid": ["yes", "red"], "plausible": ["cat"]} for key in ANSWERS["gqa"]}
    write_json(world / "gqa/testdev_choices.json", choices)
    gqa = benchmarks.read_gqa(world / "gqa", "testdev")
    vqav2 = benchmarks.read_vqav2(world / "vqav2", "val2014")
    shutil.rmtree(world)
    scores = benchmarks.score(gqa, ANSWERS["gqa"])
    assert scores is not None and (scores["accuracy"], scores["validity"], scores["plausibility"]) == (60.0, 60.0, 20.0)
    scores = benchmarks.score(vqav2, ANSWERS["vqav2"])
    assert scores is not None
    assert scores["per_question"] == {"101": 100.0, "102": 100.0, "103": 60.0}  # 2 of 10 said "a cat"
    scores = benchmarks.score(gqa.first_images(1), {"01": "yes"})
    assert scores is not None and scores["per_question"] == {"01": 100.0, "1": 0.0}


def test_each_file_is_parsed_once(benchmark_files, monkeypatch):
    parsed = []

    def counted(path):
        parsed.append(path.name)
        return read_records(path)

    monkeypatch.setattr(official, "read_records", counted)
    for name, benchmark in (
        ("gqa", benchmarks.read_gqa(benchmark_files / "gqa", "testdev")),
        ("vqav2", benchmarks.read_vqav2(benchmark_files / "vqav2", "val2014")),
    ):
        benchmarks.score(benchmark, ANSWERS[name])
    assert sorted(parsed) == [
        "testdev_balanced_questions.json",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
    ]
