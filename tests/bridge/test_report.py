"""A run on one page: numbers, intervals, right and wrong answers with their images; nothing from elsewhere."""

import base64
import io
import re
import shutil

import commands
import pytest
from PIL import Image

from bridge import results
from bridge.data import official
from bridge.evaluation.examples import chosen
from bridge.report import ReportConfig, evaluations
from vlm.errors import UserError
from vlm.files import append_jsonl, write_json


def write_evaluation(folder, data, answers, baselines=None):
    """An evaluation of the tiny GQA in which each question is answered as `answers` says; equal answers are right."""
    examples = official.gqa(data, "testdev")
    scores = {each.question_id: 100.0 * (each.answer == answers[each.question_id]) for each in examples}
    images = {each.question_id: each.image.name for each in examples}
    accuracy = sum(scores.values()) / len(scores)
    for each in examples:
        line = {"question_id": each.question_id, "image": each.image.name, "question": each.question}
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        append_jsonl(folder / "predictions/gqa.jsonl", {**line, "answer": answers[each.question_id]})
    write_json(folder / "per_question/gqa.json", {"scores": scores, "images": images})
    entry = {"split": "testdev", "data": str(data), "headline": accuracy, "partial": False, "scores": {}}
    report = {"model": "VLM", "mode": "official", "sees": "images", "benchmarks": {"gqa": entry}}
    report["summary"] = results.summary({"gqa": accuracy})
    write_json(folder / "results.json", {**report, "baselines": baselines or {}})
    return folder


TRAINED = {"01": "yes", "1": "red", "2": "no", "3": "<dog>", "4": "cat"}  # one is wrong
BLIND = {"01": "no", "1": "blue", "2": "no", "3": "bus", "4": "cat"}


@pytest.fixture
def run(whole, benchmark_files, tmp_path):
    """A trained run with its evaluation and a baseline's."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    blind = write_evaluation(tmp_path / "blind", benchmark_files / "gqa", BLIND)
    write_evaluation(out / "eval", benchmark_files / "gqa", TRAINED, {"blind": {"folder": str(blind)}})
    return out


def test_the_page(run, training):
    answers = [{"question_id": "7", "question": "Which?", "truth": "red", "answer": "blue"}]
    append_jsonl(run / "held_out.jsonl", {"step": 3, "source": "gqa val", "answers": answers})
    assert commands.output("bridge/report.py", run) == f"report written to {run / 'report.html'}\n"
    page = (run / "report.html").read_text()
    assert "http" not in page and "prefers-color-scheme: dark" in page and "<script" not in page
    assert set(re.findall(r"url\(([^)]?)", page)) <= {"#"} and not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("<svg role=") == 2
    # Images 10, 11 and 12 have 2, 1 and 2 questions; of them 2, 1 and 1 are right.
    assert "<td>run</td><td>80.00 [50.0, 100.0]</td>" in page
    assert "<td>blind</td><td>40.00 [0.0, 100.0]</td>" in page
    assert re.search(r"<td>gain over blind</td><td>\+40\.00 \[\+0\.0, \+\d+\.\d\]</td>", page)
    assert f"<td>last loss</td><td>{training.losses(run)[-1]:.4f}</td>" in page
    assert "<td>steps</td><td>12</td>" in page
    assert "<th>step 4</th>" in page and "<td>Which?</td><td>red</td><td>blue</td>" in page
    assert page.count('<div class="card">') == 5
    assert '<p class="wrong">✗ run: &lt;dog&gt;</p>' in page and "<dog>" not in page
    assert '<p class="right">✓ run: no</p><p class="right">✓ blind: no</p>' in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures] == [(24, 24)] * 5


def test_images_that_have_moved(run, benchmark_files, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(benchmark_files / "gqa", moved)
    for folder in (run / "eval", tmp_path / "blind"):
        text = (folder / "results.json").read_text()
        (folder / "results.json").write_text(text.replace(str(benchmark_files / "gqa"), str(tmp_path / "gone")))
    printed = commands.output("bridge/report.py", run)
    assert f"GQA: no examples, for {tmp_path / 'gone'} is not a folder" in printed and "--gqa DIR" in printed
    assert "card" not in re.sub(r"<style>.*?</style>", "", (run / "report.html").read_text(), flags=re.DOTALL)
    printed = commands.output("bridge/report.py", run, "--gqa", moved, "--out", tmp_path / "page.html")
    assert printed == f"report written to {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text().count('<div class="card">') == 5


def test_the_seed_chooses(run, benchmark_files):
    rows = {"run": run / "eval"}
    found = chosen("gqa", rows, str(benchmark_files / "gqa"), count=1, seed=0)
    assert [len(found["right"]), len(found["wrong"])] == [1, 1]
    assert found["wrong"][0].answers == {"run": ("<dog>", 0.0)}
    assert found == chosen("gqa", rows, str(benchmark_files / "gqa"), count=1, seed=0)
    ids = {
        chosen("gqa", rows, str(benchmark_files / "gqa"), 1, seed)["right"][0].example.question_id for seed in range(9)
    }
    assert len(ids) > 1


def test_rows_are_given_or_found(run, tmp_path):
    own, blind = run / "eval", tmp_path / "blind"
    assert evaluations(ReportConfig(str(run))) == {"run": own, "blind": blind}
    assert evaluations(ReportConfig(str(run), eval=f"a={blind}\nb={own}")) == {"a": blind, "b": own}
    with pytest.raises(UserError, match=r"has no results\.json"):
        evaluations(ReportConfig(str(run), eval=f"a={tmp_path}"))
    shutil.rmtree(own)
    assert evaluations(ReportConfig(str(run))) == {}


def test_a_run_without_evaluation_and_a_folder_that_is_no_run(whole, tmp_path):
    printed = commands.output("bridge/report.py", whole, "--out", tmp_path / "page.html")
    assert printed == f"report written to {tmp_path / 'page.html'}\n"
    assert f"None yet: python bridge/evaluate.py {whole / 'vlm'}" in (tmp_path / "page.html").read_text()
    printed = commands.output("bridge/report.py", tmp_path, expect=2)
    assert printed.startswith(f"error: {tmp_path} holds no bridge run with a first step")
