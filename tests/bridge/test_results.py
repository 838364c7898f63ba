"""Tables of evaluations, with literal numbers."""

from pathlib import Path

import pytest
from PIL import Image

from bridge import results
from bridge.evaluate import _earlier
from vlm.errors import UserError
from vlm.files import read_json, write_json

SCORES = {"pretrained": [100, 100, 100, 0], "random": [100, 0, 50, 0], "oracle": [100, 100, 100, 100]}

POPE = {
    name: {
        "random": {"accuracy": 0.75, "f1": f1},
        "popular": {"accuracy": 0.5, "f1": 0.5},
        "mean": {"accuracy": 0.625, "f1": (f1 + 0.5) / 2},
    }
    for name, f1 in {"pretrained": 0.8, "random": 0.4, "oracle": 1.0}.items()
}


def make_row(root: Path, name: str, sees: str = "images", mode: str = "official", partial: bool = False) -> str:
    """An eval folder with GQA and POPE of four questions on two images."""
    scores = {str(key): float(value) for key, value in enumerate(SCORES[name])}
    number = sum(SCORES[name]) / 4
    entry = {"headline": number, "partial": partial}
    report = {
        "mode": mode,
        "sees": sees,
        "benchmarks": {"gqa": entry, "pope": {**entry, "scores": POPE[name]}},
        "summary": results.summary({"gqa": number, "pope": number}),
    }
    write_json(root / name / "results.json", report)
    for benchmark in ("gqa", "pope"):
        images = {"0": "a.jpg", "1": "a.jpg", "2": "b.jpg", "3": "b.jpg"}
        write_json(root / name / f"per_question/{benchmark}.json", {"scores": scores, "images": images})
    return f"{name}={root / name}"


def test_the_notes_say_what_was_asked_and_of_which_rows_it_was_not_the_same(tmp_path):
    for name, images in (("pretrained", 2), ("oracle", 1)):
        make_row(tmp_path, name, sees="captions" if name == "oracle" else "images", mode="lmms")
        report = read_json(tmp_path / name / "results.json")
        report["benchmarks"]["gqa"] |= {"split": "val", "questions": 4, "images": images}
        report["benchmarks"]["pope"] |= {"split": "pope", "questions": 4, "images": 2}
        write_json(tmp_path / name / "results.json", report)
    one, both = (
        results.notes(results.compare({name: tmp_path / name for name in names}))
        for names in (("pretrained",), ("oracle", "pretrained"))
    )
    pope = "POPE: pope, 4 questions about 2 images."
    assert one[1:] == ["GQA: val, 4 questions about 2 images.", pope, "By lmms-eval's rules."]
    assert both[1] == (
        "GQA, NOT the same questions: oracle val, 4 questions about 1 images; "
        "pretrained val, 4 questions about 2 images."
    )
    assert both[2:] == [pope, "By lmms-eval's rules."]  # and no gain: the caption is no model's


def test_table_with_gains_and_ceiling(tmp_path):
    rows = [make_row(tmp_path, "pretrained"), make_row(tmp_path, "random", partial=True)]
    rows.append(make_row(tmp_path, "oracle", sees="captions"))
    table = results.compare(results.read_rows(rows))
    assert table["rows"]["pretrained"]["mean"] == 75.0
    # one image has both questions right, the other one of two: a resample of both gives 50, 75 or 100
    both = (50.0, 100.0)
    assert table["rows"]["pretrained"]["intervals"] == {"gqa": both, "pope": both, "mean": both}
    gain = table["gains"]["random"]["gqa"]
    # images differ by 100 and 50 points over two questions each: a resample of both gives 25, 37.5 or 50
    assert (gain["gain"], gain["low"], gain["high"]) == (37.5, 25.0, 50.0)
    assert table["gains"].keys() == {"random"}
    results.write(table, tmp_path / "out")
    assert (tmp_path / "out/results.md").read_text().splitlines()[:6] == [
        "|  | GQA | VQAv2 | POPE | POPE F1 | mean |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| pretrained | 75.00 | - | 75.00 | 65.00 | 75.00 |",
        "| random | 37.50* | - | 37.50* | 45.00* | 37.50* |",
        "| oracle (caption as text) | 100.00 | - | 100.00 | 75.00 | 100.00 |",
        "| gain over random | +37.50 [+25.0, +50.0] | - | +37.50 [+25.0, +50.0] | +20.00 | +37.50 [+25.0, +50.0] |",
    ]
    assert results.as_text(table).splitlines()[-4:] == [
        "POPE, accuracy / F1  random          popular        mean",
        "pretrained           75.00 / 80.00   50.00 / 50.00  62.50 / 65.00",
        "random               75.00 / 40.00   50.00 / 50.00  62.50 / 45.00",
        "oracle               75.00 / 100.00  50.00 / 50.00  62.50 / 75.00",
    ]
    with Image.open(tmp_path / "out/results.png") as picture:
        assert picture.width >= 900 and len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_summary_is_the_mean_of_what_is_scored():
    assert results.summary({"gqa": 60.0, "vqav2": 70.0, "pope": 80.5}) == {
        "gqa": 60.0,
        "vqav2": 70.0,
        "pope": 80.5,
        "mean": 70.17,
    }
    assert results.summary({"gqa": 60.0, "vqav2": None}) == {"gqa": 60.0, "vqav2": None, "pope": None, "mean": 60.0}
    assert results.summary({})["mean"] is None


def test_rows_that_cannot_be_compared(tmp_path):
    good = make_row(tmp_path, "pretrained")
    with pytest.raises(UserError, match="two rows are named 'pretrained'"):
        results.read_rows([good, good])
    with pytest.raises(UserError, match="'nonsense' is no row"):
        results.read_rows(["nonsense"])
    with pytest.raises(UserError, match=r"has no results\.json"):
        results.read_rows([f"x={tmp_path}"])
    with pytest.raises(UserError, match="random was scored in mode lmms, pretrained in official"):
        results.compare(results.read_rows([good, make_row(tmp_path, "random", mode="lmms")]))
    other = make_row(tmp_path, "random")
    write_json(tmp_path / "random/per_question/gqa.json", {"scores": {"9": 1.0}, "images": {"9": "a"}})
    with pytest.raises(UserError, match="GQA of pretrained and random: the two results are not over the same"):
        results.compare(results.read_rows([good, other]))


def test_an_unbalanced_split_has_more_questions_than_scores(tmp_path):
    rows = results.read_rows([make_row(tmp_path, "pretrained")])
    report = read_json(tmp_path / "pretrained/results.json")
    report["benchmarks"]["gqa"]["questions"] = 5
    write_json(tmp_path / "pretrained/results.json", report)
    file = tmp_path / "pretrained/per_question/gqa.json"
    found = read_json(file)
    write_json(file, {**found, "images": {**found["images"], "4": "b.jpg"}})  # GQA scores the balanced ones alone
    assert results.compare(rows)["rows"]["pretrained"]["gqa"] == 75.0


@pytest.mark.parametrize("damage", ["questions", "per_question", "summary", "list"])
def test_damaged_results_are_one_line(tmp_path, damage):
    rows, file = results.read_rows([make_row(tmp_path, "pretrained")]), tmp_path / "pretrained/results.json"
    report = read_json(file)
    if damage == "questions":  # results.json of an evaluation before this one
        report["benchmarks"]["gqa"]["questions"] = 5
        message = r"per_question/gqa\.json has 4 questions, results\.json beside it 5: run bridge/evaluate\.py"
    elif damage == "per_question":
        write_json(tmp_path / "pretrained/per_question/gqa.json", {})
        message = r"gqa\.json was not written by bridge/evaluate\.py: run"
    else:
        report = [report] if damage == "list" else {**report, "summary": {"gqa": 1.0}}
        message = r"results\.json was not written by bridge/evaluate\.py: give one of its folders"
    write_json(file, report)
    with pytest.raises(UserError, match=message):
        results.compare(rows)


def test_a_table_and_an_evaluation_do_not_replace_each_other(tmp_path):
    make_row(tmp_path, "random")
    results.check_place(tmp_path / "random", evaluation=True)
    results.check_place(tmp_path / "new", evaluation=False)
    with pytest.raises(UserError, match=r"results\.json is a result of bridge/evaluate\.py, which would be lost"):
        results.check_place(tmp_path / "random", evaluation=False)
    write_json(tmp_path / "table/results.json", {"reference": "a", "rows": {}, "gains": {}})
    with pytest.raises(UserError, match=r"results\.json is a result of bridge/results\.py, which would be lost"):
        results.check_place(tmp_path / "table", evaluation=True)


def test_a_row_says_what_it_saw(tmp_path):
    pairs = [make_row(tmp_path, "pretrained"), make_row(tmp_path, "random", sees="nothing")]
    table = results.compare(results.read_rows(pairs))
    assert [line[0] for line in results.cells(table)] == ["", "pretrained", "random (no image)", "gain over random"]


def test_scores_of_another_run_go_before_new_ones_are_written(tmp_path, capsys):
    file, head = tmp_path / "results.json", {"model": "a", "mode": "official", "limit_images": 9}
    write_json(file, {**head, "benchmarks": {"gqa": {"headline": 1.0}}})
    assert _earlier(file, {**head, "model": "the same, elsewhere"}) == {"gqa": {"headline": 1.0}}
    assert _earlier(file, {**head, "limit_images": 3}) == {} and not file.exists()
    assert "held scores of another run (GQA; limit_images differ): replaced" in capsys.readouterr().err
