"""One bad record does not stop a bridge: it is listed with its reason, and the rest is trained on."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import hub as tables
from tiny import pictures

from bridge.config import parse_config
from bridge.loop import train
from bridge.train import load_examples
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, write_json


def start(training, out: Path, root: Path, *more: str):
    flags = training.flags(out, "--gqa", str(root / "gqa"), "--batch-questions", "8", *more)
    at = flags.index("--vqav2")
    return parse_config([*flags[:at], *flags[at + 2 :]])


def spoilt(training, root: Path) -> Path:
    """A copy of GQA's 48 questions about 24 images with one record of each kind that cannot be used."""
    (root / "gqa/images").mkdir(parents=True)
    for file in (training.root / "gqa/images").iterdir():
        (root / "gqa/images" / file.name).write_bytes(file.read_bytes())
    records = read_json(training.root / "gqa/train_balanced_questions.json")
    records["0-0"]["question"] = " "
    records["1-0"]["answer"] = ""
    records["2-0"] = "no record"
    records["3-0"]["answer"] = "<|im_end|>"
    del records["4-0"]["answer"]
    write_json(root / "gqa/train_balanced_questions.json", records)
    (root / "gqa/images/5.jpg").unlink()  # 2 questions
    (root / "gqa/images/6.jpg").write_bytes(b"no picture")  # 2: the header tells
    pictures.save(pictures.noise(32, 32, seed=1), root / "gqa/images/7.jpg")
    whole = (root / "gqa/images/7.jpg").read_bytes()
    (root / "gqa/images/7.jpg").write_bytes(whole[:-100])  # 2: only decoding tells
    return root


REASONS = {
    "0-0": "empty question", "1-0": "empty answer", "2-0": "malformed record", "3-0": "control token",
    "4-0": "no answer", "5-0": "missing image", "5-1": "missing image", "6-0": "not an image", "6-1": "not an image",
    "7-0": "damaged image", "7-1": "damaged image",
}  # fmt: skip


@pytest.mark.parametrize("more", [(), ("--no-cache",)])
def test_every_kind_is_listed_and_left_out(training, tmp_path, capsys, more):
    root = spoilt(training, tmp_path)
    config = start(
        training, tmp_path / "out", root, "--steps", "1", "--batch-questions", "48", "--bad-ratio", "0.5", *more
    )
    mixture = load_examples(config)
    assert len(mixture.examples) == 48 - 8
    train(config, mixture)
    listed = {line["key"]: line["reason"] for line in read_jsonl(tmp_path / "out/quarantine.jsonl")}
    assert listed == REASONS
    assert (tmp_path / "out/vlm/model.safetensors").is_file()
    questions = sum(line["questions"] for line in read_jsonl(tmp_path / "out/metrics.jsonl"))
    assert questions == 48 - len(REASONS)
    words = "of 48 questions are left out: 2 x missing image"
    assert words in capsys.readouterr().err or not more


def test_a_run_goes_on_without_what_was_left_out_at_its_start(training, tmp_path):
    root = spoilt(training, tmp_path)
    whole = start(training, tmp_path / "whole", root)
    train(whole, load_examples(whole))
    out = tmp_path / "cut"
    flags = start(training, out, root)
    train(flags, load_examples(flags))
    mended = training.root / "gqa/images/5.jpg"
    (root / "gqa/images/5.jpg").write_bytes(mended.read_bytes())
    for name in ("step_12",):
        for file in (out / "checkpoints" / name).iterdir():
            file.unlink()
    train(flags, load_examples(flags))
    assert training.losses(out) == training.losses(tmp_path / "whole")


def test_too_many_stop_the_run_before_the_model_is_loaded(training, tmp_path):
    root = spoilt(training, tmp_path)
    for number in range(8, 20):
        (root / f"gqa/images/{number}.jpg").unlink()
    config = start(training, tmp_path / "out", root)
    with pytest.raises(UserError, match=r"32 of the 48 questions \(66\.7%, limit 5\.0%\) cannot be used: 26 x missing"):
        load_examples(config)


def test_nothing_left_names_the_reasons(training, tmp_path):
    (tmp_path / "gqa/images").mkdir(parents=True)
    record = {"question": "q", "answer": "a", "imageId": "1"}
    (tmp_path / "gqa/train_balanced_questions.json").write_text(json.dumps({"1": record}))
    with pytest.raises(UserError, match=r"no question can be trained on: 1 x missing image; the first: .*question 1"):
        load_examples(start(training, tmp_path / "out", tmp_path))


def test_the_hub_layout_trains_like_the_official_one(training, tmp_path):
    """The same questions in the same order from the same pictures: the same losses."""
    tables.write_gqa(training.root / "gqa", tmp_path / "gqa", "train")
    official = start(training, tmp_path / "official", training.root, "--steps", "4")
    tabled = start(training, tmp_path / "tables", tmp_path, "--steps", "4")
    for config in (official, tabled):
        train(config, load_examples(config))
    assert training.losses(tmp_path / "official") == training.losses(tmp_path / "tables")


def test_a_mended_conversation_stays_out_of_a_run_that_goes_on(tiny_vlm, tmp_path):
    """Two files of one name; the second record of the second file has no answer, and is mended after the start."""

    def write(second: str) -> None:
        for folder in ("a", "b"):
            texts = ("red", second if folder == "b" else "green", "blue")
            said = [({"from": "human", "value": "Hi"}, {"from": "gpt", "value": text}) for text in texts]
            (tmp_path / "talks" / folder).mkdir(parents=True, exist_ok=True)
            write_json(tmp_path / "talks" / folder / "x.json", [{"conversations": turns} for turns in said])

    def run() -> list[dict]:
        given = ["--init", str(tiny_vlm), "--out", str(tmp_path / "out"), "--conversations", str(tmp_path / "talks")]
        config = parse_config([*given, "--precision", "fp32", "--batch-questions", "1", "--save-every", "3"])
        mixture = load_examples(config)
        ids = [example.question_id for example in mixture.examples]
        assert ids == [f"{file}/x.json:{number}" for file, number in ("a0", "a1", "a2", "b0", "b2")]
        train(config, mixture)
        return list(read_jsonl(tmp_path / "out/metrics.jsonl"))

    write(" ")
    before = run()
    listed = (tmp_path / "out/quarantine.jsonl").read_bytes()
    assert [(line["key"], line["reason"]) for line in read_jsonl(tmp_path / "out/quarantine.jsonl")] == [
        ("b/x.json:1", "empty question or answer")
    ]
    shutil.rmtree(tmp_path / "out/checkpoints/step_5")
    write("yellow")
    after = run()
    assert [(line["step"], line["loss"]) for line in after] == [(line["step"], line["loss"]) for line in before]
    assert (tmp_path / "out/quarantine.jsonl").read_bytes() == listed


def test_a_mended_official_record_is_refused_with_the_way_on(training, tmp_path):
    root, out = spoilt(training, tmp_path), tmp_path / "out"
    config = start(training, out, root)
    train(config, load_examples(config))
    before = training.losses(out)
    shutil.rmtree(out / "checkpoints/step_12")
    records = read_json(root / "gqa/train_balanced_questions.json")
    records["2-0"] = {**records["2-1"], "question": "Is it red?"}
    write_json(root / "gqa/train_balanced_questions.json", records)
    with pytest.raises(UserError, match=r"questions .* \(if records were only repaired, --allow-change questions goes"):
        train(config, load_examples(config))
    allowed = start(training, out, root, "--allow-change", "questions")
    train(allowed, load_examples(allowed))
    assert training.losses(out) == before


@pytest.mark.parametrize(("rank", "more", "lines"), [("0", (), 28), ("1", (), None), ("0", ("--plan",), None)])
def test_too_many_bad_questions_are_listed_by_the_first_rank_of_a_run(
    training, tmp_path, monkeypatch, rank, more, lines
):
    """Others would leave files that nothing merges, and --plan begins no run."""
    root = spoilt(training, tmp_path)
    records = read_json(root / "gqa/train_balanced_questions.json")
    for key in [key for key in records if key.endswith("-1") and key not in REASONS][:20]:
        records[key]["answer"] = ""
    write_json(root / "gqa/train_balanced_questions.json", records)
    monkeypatch.setenv("RANK", rank)
    config = start(training, tmp_path / "out", root, *more)
    remedy = "without --plan they are listed; repair the data" if more else "see quarantine.jsonl, repair the data"
    with pytest.raises(UserError, match=rf"^28 of the 48 questions .* cannot be used: .*; {remedy}$"):
        load_examples(config)
    if lines is None:
        assert not (tmp_path / "out").exists()
    else:
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["quarantine.jsonl"]
        assert len(list(read_jsonl(tmp_path / "out/quarantine.jsonl"))) == lines
