"""The same benchmarks in the hub's tables: the same predictions to the letter, and the same scores."""

import sys

from tiny import hub as tables

from bridge import evaluate
from vlm.files import read_json, read_jsonl

NAMES = ("gqa", "vqav2", "pope")


def test_both_layouts_give_the_same_predictions_and_scores(benchmark_files, tiny_vlm, tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    tables.write_gqa(benchmark_files / "gqa", hub / "gqa", "testdev")
    tables.write_vqav2(benchmark_files / "vqav2", hub / "vqav2")
    tables.write_pope(benchmark_files / "pope", hub / "pope")
    for root, out in ((benchmark_files, tmp_path / "official"), (hub, tmp_path / "tables")):
        data = [part for name in NAMES for part in (f"--{name}", str(root / name))]
        given = [str(tiny_vlm), *data, "--out", str(out), "--device", "cpu", "--precision", "fp32"]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *given, "--max-new-tokens", "4"])
        evaluate.main()
    for name in NAMES:
        first, second = (tmp_path / kind / f"predictions/{name}.jsonl" for kind in ("official", "tables"))
        lines = list(read_jsonl(first))
        assert all(line.pop("image_bytes") > 0 for line in lines)  # of a file: a table would have to be read for it
        assert lines == list(read_jsonl(second))
    reports = [read_json(tmp_path / kind / "results.json")["benchmarks"] for kind in ("official", "tables")]
    assert [reports[0][name]["scores"] for name in NAMES] == [reports[1][name]["scores"] for name in NAMES]
    assert (tmp_path / "official/details.txt").read_text() == (tmp_path / "tables/details.txt").read_text()
