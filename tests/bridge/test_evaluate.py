"""The evaluation command on small official files: plans, scores with missing images, resuming, every kind of row."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bridge import benchmarks, evaluate
from bridge.answering import plan, shuffled
from bridge.scoring import gqa as gqa_scoring
from bridge.scoring import pope as pope_scoring
from bridge.vqa import Example
from vlm.assemble import load
from vlm.errors import UserError
from vlm.logs import read_json, read_jsonl, write_json

ROOT = Path(__file__).parent.parent.parent


def save_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def gqa_record(image: str, question: str, answer: str, structural: str) -> dict:
    return {
        "imageId": image,
        "question": question,
        "answer": answer,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "attr", "detailed": "x"},
        "groups": {"global": None, "local": "x"},
        "semantic": [{"operation": "select", "argument": "cat (-)", "dependencies": []}],
        "entailed": [],
        "equivalent": [],
    }


def make_world(root: Path) -> Path:
    """gqa (3 images, 5 questions), vqav2 (2, 3) and pope (2, 3 x 4), and captions of all images."""
    questions = {
        "01": gqa_record("10", "Is it red?", "yes", "verify"),
        "1": gqa_record("10", "What color is the cat?", "red", "query"),
        "2": gqa_record("11", "Is it red?", "no", "verify"),
        "3": gqa_record("12", "What is it?", "cat", "query"),
        "4": gqa_record("12", "Is it a cat or a dog?", "cat", "choose"),
    }
    write_json(root / "gqa/testdev_balanced_questions.json", questions)
    asked = [(101, 7, "How many cats are there?"), (102, 7, "Is it red?"), (103, 8, "What is on the table?")]
    records = [{"question_id": key, "image_id": image, "question": text} for key, image, text in asked]
    write_json(root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": records})
    answers = {101: ["2"] * 7 + ["3"] * 3, 102: ["yes"] * 10, 103: ["a cat"] * 2 + ["dog"] * 8}
    annotations = [
        {
            "question_id": key,
            "image_id": image,
            "question_type": "none of the above",
            "answer_type": "other",
            "multiple_choice_answer": answers[key][0],
            "answers": [{"answer": a, "answer_id": i, "answer_confidence": "yes"} for i, a in enumerate(answers[key])],
        }
        for key, image, _ in asked
    ]
    write_json(root / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    for category, negative in (("random", "bus"), ("popular", "cup"), ("adversarial", "dog")):
        lines = [
            {"question_id": 2 * n + i + 1, "image": f"COCO_val2014_{n:012d}.jpg", "text": text, "label": label}
            for n in (1, 2)
            for i, (text, label) in enumerate([("Is there a cat?", "yes"), (f"Is there a {negative}?", "no")])
        ]
        (root / "pope").mkdir(exist_ok=True)
        (root / f"pope/coco_pope_{category}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"gqa/images/{i}.jpg" for i in (10, 11, 12)]
    files += [f"vqav2/val2014/COCO_val2014_{i:012d}.jpg" for i in (7, 8)]
    files += [f"pope/val2014/COCO_val2014_{i:012d}.jpg" for i in (1, 2)]
    for number, file in enumerate(files):
        save_picture(root / file, number)
    write_json(root / "captions.json", {file: f"a picture of cat {n}" for n, file in enumerate(files)})
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_plan_asks_a_repeated_question_once(world):
    pope = benchmarks.read_pope(world / "pope")
    assert len(pope.examples) == 12
    [[first, second]] = plan(pope.examples, batch_questions=8)
    assert first.image.name == "COCO_val2014_000000000001.jpg" and second.image.name == "COCO_val2014_000000000002.jpg"
    assert first.questions == ("Is there a cat?", "Is there a bus?", "Is there a cup?", "Is there a dog?")
    assert first.ids[0] == ("random/3", "popular/3", "adversarial/3")
    assert [len(batch) for batch in plan(pope.examples, batch_questions=7)] == [1, 1]
    [[blind]] = plan(pope.examples, batch_questions=8, blind=True)
    assert blind.image is None and blind.questions == first.questions and len(blind.ids[0]) == 6


def test_plan_puts_units_of_similar_length_together():
    texts = {"a.jpg": "?" * 9, "b.jpg": "?", "c.jpg": "?" * 8, "d.jpg": "?" * 2}
    examples = [Example(name, Path(name), text, None) for name, text in texts.items()]
    planned = [[unit.image.name for unit in batch] for batch in plan(examples, batch_questions=2)]
    assert planned == [["b.jpg", "d.jpg"], ["c.jpg", "a.jpg"]]


def test_shuffled_gives_every_image_another():
    images = [Path(str(i)) for i in range(7)]
    pairs = shuffled(images)
    assert sorted(pairs) == sorted(pairs.values()) == images and all(a != b for a, b in pairs.items())
    assert pairs == shuffled(images)
    with pytest.raises(UserError, match="at least two images"):
        shuffled(images[:1])


def test_scores_and_submissions_with_missing_answers(world):
    gqa = benchmarks.read_gqa(world / "gqa", "testdev")
    scores = benchmarks.score(gqa, {"01": "Yes.", "1": "red", "2": "yes", "4": "cat"})
    assert (scores["accuracy"], scores["binary"], scores["open"], scores["missing"]) == (60.0, 66.67, 50.0, 1)
    assert benchmarks.headline("gqa", scores) == 60.0
    assert scores["per_question"] == {"01": 100.0, "1": 100.0, "2": 0.0, "3": 0.0, "4": 100.0}
    assert json.loads(benchmarks.submissions(gqa, {"01": "Yes."})["gqa_testdev_predictions.json"])[:2] == [
        {"questionId": "01", "prediction": "yes"},
        {"questionId": "1", "prediction": ""},
    ]

    vqav2 = benchmarks.read_vqav2(world / "vqav2", "val2014")
    scores = benchmarks.score(vqav2, {"101": "three", "102": "Yes"})  # 3 of 10: 0.9; unanimous: lower-cased, 1
    assert scores["per_question"] == {"101": 90.0, "102": 100.0, "103": 0.0}
    assert benchmarks.headline("vqav2", scores) == 63.33
    assert json.loads(benchmarks.submissions(vqav2, {"102": "Yes"})["vqav2_val2014_results.json"]) == [
        {"question_id": 101, "answer": ""},
        {"question_id": 102, "answer": "yes"},
        {"question_id": 103, "answer": ""},
    ]

    pope = benchmarks.read_pope(world / "pope")
    answers = {example.question_id: "No" for example in pope.examples if example.question_id != "random/4"}
    scores = benchmarks.score(pope, answers)
    assert [scores[category]["accuracy"] for category in ("random", "popular", "adversarial")] == [0.25, 0.5, 0.5]
    assert benchmarks.headline("pope", scores) == 41.67
    assert scores["per_question"]["random/4"] == 0.0 and scores["per_question"]["popular/4"] == 100.0
    lines = benchmarks.submissions(pope, answers)["pope_random_answers.json"].splitlines()
    assert [json.loads(line) for line in lines[:2]] == [
        {"question": "Is there a cat?", "answer": "No", "question_id": 3},
        {"question": "Is there a bus?", "answer": "", "question_id": 4, "answered": False},
    ]


def test_lmms_mode_and_hidden_answers(world):
    gqa = benchmarks.read_gqa(world / "gqa", "testdev")
    assert benchmarks.score(gqa, {"01": " YES! "}, "lmms")["accuracy"] == 20.0
    assert benchmarks.score(gqa, {"01": " YES! "})["accuracy"] == 0.0
    hidden = replace(gqa, examples=tuple(replace(example, answer=None) for example in gqa.examples))
    assert benchmarks.score(hidden, {"01": "yes"}) is None and benchmarks.headline("gqa", None) is None


def test_captions_are_found_by_path(world, tmp_path):
    captions = benchmarks.read_captions(world / "captions.json")
    image = world / "gqa/images/11.jpg"
    assert benchmarks.caption_of(image, captions, world) == "a picture of cat 1"
    assert benchmarks.caption_of(image, captions, tmp_path) == "a picture of cat 1"  # the file lies elsewhere
    with pytest.raises(UserError, match=r"no caption of .*13\.jpg"):
        benchmarks.caption_of(world / "gqa/images/13.jpg", captions, world)


def run(folder: Path, world: Path, out: Path, *more: str, benchmarks=("gqa", "vqav2", "pope"), expect: int = 0) -> str:
    """bridge/evaluate.py as a user starts it; its output, stdout before stderr."""
    data = [part for name in benchmarks for part in (f"--{name}", str(world / name))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    call = [sys.executable, str(ROOT / "bridge/evaluate.py"), str(folder), *data, "--out", str(out), *more]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def here(monkeypatch, folder: Path, world: Path, out: Path, *more: str) -> dict:
    """The same in this process, which has the libraries loaded already. Its results.json."""
    data = [part for name in ("gqa", "vqav2", "pope") for part in (f"--{name}", str(world / name))]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(folder), *data, "--out", str(out), "--device", "cpu", *more])
    evaluate.main()
    return read_json(out / "results.json")


def predictions(out: Path) -> dict[str, bytes]:
    return {name: (out / f"predictions/{name}.jsonl").read_bytes() for name in ("gqa", "vqav2", "pope")}


def untimed(report: dict) -> dict:
    timing = ("answered_now", "seconds", "questions_per_s")
    entries = {
        name: {k: v for k, v in entry.items() if k not in timing} for name, entry in report["benchmarks"].items()
    }
    return {**report, "benchmarks": entries}


@pytest.fixture(scope="module")
def evaluated(world, tiny_vlm, tmp_path_factory) -> Path:
    """OUT of an uninterrupted run in a process of its own."""
    out = tmp_path_factory.mktemp("eval")
    printed = run(tiny_vlm.parent, world, out, "--max-new-tokens", "5")
    assert "GQA" in printed and f"written: {out / 'results.json'}" in printed
    return out


def test_answers_are_those_of_the_vlm_itself(world, tiny_vlm, evaluated):
    vlm = load(tiny_vlm)
    for name, folder in (("gqa", "gqa/images"), ("vqav2", "vqav2/val2014"), ("pope", "pope/val2014")):
        records = list(read_jsonl(evaluated / f"predictions/{name}.jsonl"))
        assert len(records) == {"gqa": 5, "vqav2": 3, "pope": 12}[name]
        for record in records:
            expected = vlm.answer(world / folder / record["image"], record["question"], max_new_tokens=5)
            assert record["answer"] == expected


def test_results_hold_scores_of_the_official_submissions(world, evaluated):
    report = read_json(evaluated / "results.json")
    assert report["sees"] == "images" and report["mode"] == "official"
    entry = report["benchmarks"]["gqa"]
    assert (entry["split"], entry["questions"], entry["images"], entry["partial"]) == ("testdev", 5, 3, False)
    submitted = read_json(evaluated / "gqa_testdev_predictions.json")
    again = gqa_scoring.score(read_json(world / "gqa/testdev_balanced_questions.json"), submitted)
    assert entry["scores"]["accuracy"] == report["summary"]["gqa"] == again["accuracy"]
    answers = [line["answer"] for line in read_jsonl(evaluated / "pope_popular_answers.json")]
    labels = [line["label"] for line in read_jsonl(world / "pope/coco_pope_popular.json")]
    popular = report["benchmarks"]["pope"]["scores"]["popular"]
    assert popular["accuracy"] == pope_scoring.score(labels, answers)["accuracy"]
    assert {row["question_id"] for row in read_json(evaluated / "vqav2_val2014_results.json")} == {101, 102, 103}


def test_resuming_after_a_kill_gives_the_same_bytes(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    out = tmp_path / "eval"
    shutil.copytree(evaluated, out)
    lines = (evaluated / "predictions/pope.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions/pope.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:30])
    (out / "predictions/vqav2.jsonl").unlink()
    (out / "results.json").unlink()
    report = here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "5")
    assert predictions(out) == predictions(evaluated)
    assert untimed(report) == untimed(read_json(evaluated / "results.json"))
    assert [entry["answered_now"] for entry in report["benchmarks"].values()] == [0, 3, 8]


def test_another_model_is_refused_and_overwrite_starts_anew(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    out = tmp_path / "eval"
    shutil.copytree(evaluated, out)
    with pytest.raises(UserError, match=r"another run .it differs in: max_new_tokens"):
        here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "6")
    other = tmp_path / "other"
    shutil.copytree(tiny_vlm, other)
    (other / "generation_config.json").write_text((other / "generation_config.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"another run .it differs in: model"):
        here(monkeypatch, other, world, out, "--max-new-tokens", "5")
    assert predictions(out) == predictions(evaluated)
    report = here(monkeypatch, tiny_vlm, world, out, "--max-new-tokens", "6", "--overwrite")
    assert report["benchmarks"]["pope"]["answered_now"] == 12


def test_missing_and_damaged_images_make_scores_partial(monkeypatch, capsys, world, tiny_vlm, evaluated, tmp_path):
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    (broken / "gqa/images/10.jpg").unlink()
    damaged = broken / "pope/val2014/COCO_val2014_000000000002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    whole, report = (
        read_json(evaluated / "results.json"),
        here(monkeypatch, tiny_vlm, broken, tmp_path / "eval", "--max-new-tokens", "5"),
    )
    entry = report["benchmarks"]["gqa"]
    assert (entry["partial"], entry["unanswered"], entry["questions"]) == (True, 2, 5)
    assert list(entry["bad_images"]) == [str(broken / "gqa/images/10.jpg")]
    assert "No such file" in entry["bad_images"][str(broken / "gqa/images/10.jpg")]
    assert "damaged image" in report["benchmarks"]["pope"]["bad_images"][str(damaged)]
    assert not report["benchmarks"]["vqav2"]["partial"] and report["summary"]["vqav2"] == whole["summary"]["vqav2"]
    before = read_json(evaluated / "per_question/pope.json")
    kept = [v for k, v in before["scores"].items() if before["images"][k] != damaged.name]
    assert len(kept) == 6 and report["summary"]["pope"] == round(sum(kept) / 12, 2)  # those of the lost image are wrong
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 2 and "GQA is partial: 1 images could not be read, 2 of 5 questions" in warnings[0]


def test_blind_runs_are_evaluated_blind(monkeypatch, capsys, world, tiny_vlm, tmp_path):
    shutil.copytree(tiny_vlm, tmp_path / "run/vlm")
    write_json(tmp_path / "run/config.json", {"encoder": "blind"})
    report = here(monkeypatch, tmp_path / "run", world, tmp_path / "eval", "--max-new-tokens", "5")
    assert report["sees"] == "nothing" and "says encoder blind" in capsys.readouterr().err
    vlm = load(tiny_vlm)
    for record in read_jsonl(tmp_path / "eval/predictions/pope.jsonl"):
        assert record["answer"] == vlm.answer(None, record["question"], max_new_tokens=5)


def test_oracle_reads_the_caption_and_shuffled_another_image(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    captions = str(world / "captions.json")
    oracle = here(monkeypatch, tiny_vlm, world, tmp_path / "o", "--max-new-tokens", "5", "--oracle", captions)
    shuffle = here(monkeypatch, tiny_vlm, world, tmp_path / "s", "--max-new-tokens", "5", "--shuffle-images")
    assert (oracle["sees"], shuffle["sees"]) == ("captions", "other images")
    vlm = load(tiny_vlm)
    for record in read_jsonl(tmp_path / "o/predictions/gqa.jsonl"):
        number = int(record["image"][:2]) - 10
        ids = vlm.prompt_ids(record["question"], image=False, caption=f"a picture of cat {number}")
        new = vlm.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=5
        )
        assert record["answer"] == vlm.processor.tokenizer.decode(new[0, len(ids) :], skip_special_tokens=True).strip()
    pair = {1: 2, 2: 1}  # of two images, each is shown for the other
    for record in read_jsonl(tmp_path / "s/predictions/pope.jsonl"):
        shown = world / f"pope/val2014/COCO_val2014_{pair[int(record['image'][-5])]:012d}.jpg"
        assert record["answer"] == vlm.answer(shown, record["question"], max_new_tokens=5)


def test_baselines_limit_and_unscored_split(monkeypatch, capsys, world, tiny_vlm, evaluated, tmp_path):
    hidden = tmp_path / "world"
    shutil.copytree(world, hidden)
    (hidden / "vqav2/v2_mscoco_val2014_annotations.json").unlink()
    out = tmp_path / "eval"
    given = ("--max-new-tokens", "5", "--baseline", f"same={evaluated}")
    report = here(monkeypatch, tiny_vlm, hidden, out, *given)
    assert report["summary"]["vqav2"] is None and report["benchmarks"]["vqav2"]["scores"] is None
    assert len(read_json(out / "vqav2_val2014_results.json")) == 3
    assert report["gains"]["same"]["gqa"]["gain"] == 0.0 and "vqav2" not in report["gains"]["same"]
    assert "gain over same" in capsys.readouterr().out
    assert (out / "results.md").is_file() and (out / "results.png").is_file()
    few = here(monkeypatch, tiny_vlm, world, tmp_path / "few", "--max-new-tokens", "5", "--limit-images", "1")
    assert [entry["questions"] for entry in few["benchmarks"].values()] == [2, 2, 6]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--blind", "--shuffle-images"], "exclude each other"),
        (["--baseline", "nowhere"], "'nowhere' is no row"),
        (["--gqa-split", "train"], "train_balanced_questions.json is missing"),
        (["--oracle", "none.json"], "none.json does not exist"),
    ],
)
def test_user_errors_come_before_any_work(monkeypatch, world, tmp_path, more, message):
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm/config.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        here(monkeypatch, tmp_path, world, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_a_user_error_is_one_line_and_exit_2(world, tmp_path):
    printed = run(tmp_path, world, tmp_path / "out", expect=2)
    assert printed.strip().endswith("needs a config.json, as bridge/train.py saves it") and printed.count("\n") == 1
