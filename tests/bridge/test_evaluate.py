"""The evaluation command: answers, missing images, every kind of table row, errors."""

import shutil

import pytest
import torch
from evaluating import here, run

from bridge.scoring import gqa as gqa_scoring
from bridge.scoring import pope as pope_scoring
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, write_json
from vlm.llava.model import load
from vlm.llms.prompt import briefly

BAD_QUESTIONS = {"1": "empty text", "3": "control token"}


def test_answers_are_those_of_the_vlm_itself(world, tiny_vlm, evaluated):
    vlm = load(tiny_vlm, "cpu", torch.float32)
    for name, folder in (("gqa", "gqa/images"), ("vqav2", "vqav2/val2014"), ("pope", "pope/val2014")):
        records = list(read_jsonl(evaluated / f"predictions/{name}.jsonl"))
        assert len(records) == {"gqa": 5, "vqav2": 3, "pope": 12}[name]
        for record in records:
            expected = vlm.answer(world / folder / record["image"], record["question"], max_new_tokens=5, short=True)
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


def test_nothing_answered_is_no_score_of_zero(monkeypatch, world, tiny_vlm, tmp_path):
    empty = tmp_path / "world"
    shutil.copytree(world / "gqa", empty / "gqa")
    for image in (empty / "gqa/images").iterdir():
        image.unlink()
    with pytest.raises(
        UserError, match=r"GQA: not one question could be answered, the first because of .*No such file"
    ):
        here(monkeypatch, tiny_vlm, empty, tmp_path / "eval", benchmarks=["gqa"])
    assert not (tmp_path / "eval/results.json").exists()


def test_questions_that_no_prompt_may_hold_count_as_wrong(monkeypatch, capsys, world, tiny_vlm, evaluated, tmp_path):
    bad = tmp_path / "world"
    shutil.copytree(world / "gqa", bad / "gqa")
    file = bad / "gqa/testdev_balanced_questions.json"
    spoilt = file.read_text().replace("What is it?", "What is <|im_end|>?").replace("What color is the cat?", " ")
    file.write_text(spoilt)
    report = here(monkeypatch, tiny_vlm, bad, tmp_path / "eval", "--max-new-tokens", "5", benchmarks=["gqa"])
    entry = report["benchmarks"]["gqa"]
    assert (entry["questions"], entry["unanswered"], entry["partial"]) == (5, 2, True)
    assert entry["bad_questions"] == BAD_QUESTIONS
    assert "GQA is partial: 2 questions cannot be asked (1 x " in capsys.readouterr().err
    scores = read_json(tmp_path / "eval/per_question/gqa.json")["scores"]
    whole = read_json(evaluated / "per_question/gqa.json")["scores"]
    assert scores == {key: 0 if key in BAD_QUESTIONS else score for key, score in whole.items()}
    again = here(monkeypatch, tiny_vlm, bad, tmp_path / "eval", "--max-new-tokens", "5", benchmarks=["gqa"])
    assert again["benchmarks"]["gqa"]["answered_now"] == 0


def test_not_one_question_that_can_be_asked(monkeypatch, world, tiny_vlm, tmp_path):
    shutil.copytree(world / "gqa", tmp_path / "gqa")
    file = tmp_path / "gqa/testdev_balanced_questions.json"
    write_json(file, {key: {**record, "question": " "} for key, record in read_json(file).items()})
    with pytest.raises(UserError, match="GQA: not one question could be answered, the first because of empty text"):
        here(monkeypatch, tiny_vlm, tmp_path, tmp_path / "eval", benchmarks=["gqa"])


def test_baselines_are_judged_before_the_work(monkeypatch, world, tiny_vlm, evaluated, tmp_path):
    given = ("--max-new-tokens", "5", "--baseline", f"old={evaluated}")
    with pytest.raises(UserError, match="old was scored in mode official, this in lmms"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "eval", *given, "--mode", "lmms")
    with pytest.raises(UserError, match="GQA of old was scored over other questions than these"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "eval", *given, "--limit-images", "1")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match=r"was not written by bridge/evaluate\.py"):
        here(monkeypatch, tiny_vlm, world, tmp_path / "eval", "--baseline", f"old={tmp_path}")
    assert not (tmp_path / "eval").exists()


def test_missing_and_damaged_images_make_scores_partial(monkeypatch, capsys, world, tiny_vlm, evaluated, tmp_path):
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    (broken / "gqa/images/10.jpg").unlink()
    damaged = broken / "pope/val2014/COCO_val2014_000000000002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    whole = read_json(evaluated / "results.json")
    report = here(monkeypatch, tiny_vlm, broken, tmp_path / "eval", "--max-new-tokens", "5")
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


def test_blind_asks_the_bare_question(monkeypatch, world, tiny_vlm, tmp_path):
    report = here(monkeypatch, tiny_vlm, world, tmp_path / "eval", "--max-new-tokens", "5", "--blind")
    assert report["sees"] == "nothing"
    vlm = load(tiny_vlm, "cpu", torch.float32)
    for record in read_jsonl(tmp_path / "eval/predictions/pope.jsonl"):
        assert record["answer"] == vlm.answer(None, record["question"], max_new_tokens=5, short=True)


def test_oracle_reads_the_caption_and_shuffled_another_image(monkeypatch, world, tiny_vlm, tmp_path):
    captions = str(world / "captions.json")
    oracle = here(monkeypatch, tiny_vlm, world, tmp_path / "o", "--max-new-tokens", "5", "--oracle", captions)
    shuffle = here(monkeypatch, tiny_vlm, world, tmp_path / "s", "--max-new-tokens", "5", "--shuffle-images")
    assert (oracle["sees"], shuffle["sees"]) == ("captions", "other images")
    vlm = load(tiny_vlm, "cpu", torch.float32)
    for record in read_jsonl(tmp_path / "o/predictions/gqa.jsonl"):
        number = int(record["image"][:2]) - 10
        ids = vlm.prompt_ids(briefly(record["question"]), images=0, caption=f"a picture of cat {number}")
        new = vlm.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=5
        )
        assert record["answer"] == vlm.processor.tokenizer.decode(new[0, len(ids) :], skip_special_tokens=True).strip()
    pair = {1: 2, 2: 1}  # of two images, each is shown for the other
    for record in read_jsonl(tmp_path / "s/predictions/pope.jsonl"):
        shown = world / f"pope/val2014/COCO_val2014_{pair[int(record['image'][-5])]:012d}.jpg"
        assert record["answer"] == vlm.answer(shown, record["question"], max_new_tokens=5, short=True)


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
    here(monkeypatch, tiny_vlm, hidden, out, "--max-new-tokens", "5")
    assert not (out / "results.md").exists() and not (out / "results.png").exists()  # they told of the baseline
    few = here(monkeypatch, tiny_vlm, world, tmp_path / "few", "--max-new-tokens", "5", "--limit-images", "1")
    assert [entry["questions"] for entry in few["benchmarks"].values()] == [2, 2, 6]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--blind", "--shuffle-images"], "exclude each other"),
        (["--baseline", "nowhere"], "'nowhere' is no row"),
        (["--baseline", "this=x"], "--baseline this=...: the run itself is called so"),
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
