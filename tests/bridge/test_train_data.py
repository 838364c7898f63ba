"""Training on LLaVA's files, by votes and with weights; text that cannot be trained on is refused."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bridge.config import parse_config
from bridge.loop import train
from bridge.train import load_examples
from vlm.errors import UserError
from vlm.files import read_jsonl, write_json

PROMPT = "\nAnswer the question using a single word or phrase."


def llava_file(root: Path, *conversations: list[str]) -> Path:
    """Write one record for each conversation, human and gpt in turn, after one record without an image."""
    records = [{"id": "share", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
    for number, turns in enumerate(conversations, start=10):
        said = [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]
        records.append({"id": number, "image": f"images/{number}.jpg", "conversations": said})
    write_json(root / "mix.json", records)
    return root / "mix.json"


def run(tiny_vlm: Path, out: Path, *more: str) -> list[dict]:
    """Train in this process. Returns the metrics."""
    config = parse_config(["--init", str(tiny_vlm), "--out", str(out), "--precision", "fp32", *map(str, more)])
    train(config, load_examples(config))
    return list(read_jsonl(out / "metrics.jsonl"))


def test_llava_instructions_train_end_to_end(benchmark_files, tiny_vlm, tmp_path, capsys):
    file = llava_file(
        tmp_path,
        [f"<image>\nIs it red?{PROMPT}", "Yes", "What is it?", "A cat"],
        [f"Is it a dog?{PROMPT}\n<image>", "No"],
    )
    lines = run(tiny_vlm, tmp_path / "out", "--llava", file, "--llava-images", benchmark_files / "gqa")
    said = (
        f"{file}: 1 of 3 conversations have no image and are trained as text alone, from which nothing learns without"
    )
    assert said in capsys.readouterr().err
    assert [line["questions"] for line in lines] == [3]
    # the tokenizer has a token a byte: the answers' own, and one that ends each
    assert lines[0]["answer_tokens"] == len("Hello" + "Yes" + "A cat" + "No") + 4
    assert (tmp_path / "out/vlm/model.safetensors").is_file()


def test_text_that_is_too_long_is_left_out_before_any_work(benchmark_files, tiny_vlm, tmp_path):
    turns = [turn for number in range(30) for turn in (f"{number}?", "Yes")]
    file = llava_file(tmp_path, ["What is it?", "long " * 60], turns)
    lines = run(tiny_vlm, tmp_path / "out", "--llava", file, "--llava-images", benchmark_files / "gqa",
                "--batch-questions", "2", "--row-tokens", "160")  # fmt: skip
    listed = {record["key"]: record["reason"] for record in read_jsonl(tmp_path / "out/quarantine.jsonl")}
    assert listed == dict.fromkeys(("1", "2"), "takes more than --row-tokens 160 allows")
    assert [(line["questions"], line["answer_tokens"]) for line in lines] == [(1, len("Hello") + 1)]


def test_vqav2_learns_the_most_common_answer_or_one_by_votes(benchmark_files, tiny_vlm, tmp_path):
    given = ("--vqav2", benchmark_files / "vqav2", "--vqav2-split", "val2014", "--batch-questions", "3")
    lines = run(tiny_vlm, tmp_path / "common", *given, "--steps", "2")
    assert {line["answer_tokens"] for line in lines} == {len("2" + "yes" + "a cat") + 3}
    # 103 has "dog" eight times of ten
    lines = run(tiny_vlm, tmp_path / "votes", *given, "--steps", "6", "--vqav2-answers", "votes")
    assert {line["answer_tokens"] for line in lines} == {len("2" + "yes" + word) + 3 for word in ("a cat", "dog")}


def test_weights_are_for_all_sets_that_are_given():
    given = ["--llm", "smollm2", "--encoder", "blind", "--gqa", "a", "--vqav2", "b"]
    wrong = ("gqa=1", "gqa=1,vqav2=1,conversations=1", "gqa=1,vqav2=1,gqa=2", "gqa=1,vqav2=-1", "gqa=0,vqav2=0")
    for weights in (*wrong, "gqa=1,vqav2=nan", "2,1", ""):
        with pytest.raises(UserError, match="give gqa=W,vqav2=W, numbers"):
            parse_config([*given, "--weights", weights])
    assert parse_config(given).shares() is None
    assert parse_config([*given, "--weights", "vqav2=1,gqa=3"]).shares() == [0.75, 0.25]
    llava = ["--llava", "f", "--llava-images", "d"]
    assert parse_config([*given, *llava, "--weights", "gqa=2,vqav2=1,conversations=1"]).shares() == [0.5, 0.25, 0.25]


def test_lora_has_its_own_learning_rate(benchmark_files, tiny_vlm, tmp_path, monkeypatch):
    made = []

    class AdamW(torch.optim.AdamW):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            made.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", AdamW)
    given = ("--vqav2", benchmark_files / "vqav2", "--vqav2-split", "val2014", "--lora", "2", "--steps", "2")
    lines = run(tiny_vlm, tmp_path / "out", *given, "--lr", "0.01", "--lr-lora", "0.002", "--warmup", "0")
    assert [line["lr_lora"] / line["lr"] for line in lines] == pytest.approx([0.2, 0.2])
    (optimizer,) = made
    connector, lora = optimizer.param_groups
    assert lora["lr"] / connector["lr"] == pytest.approx(0.2)
    assert len(connector["params"]) == 4 < len(lora["params"])
    state = load_file(tmp_path / "out/checkpoints/step_2/optimizer.safetensors")
    trained = 4 + len(lora["params"])
    kinds = Counter(name.split("/")[0] for name in state)
    assert kinds == {"step": trained, "exp_avg": trained, "exp_avg_sq": trained}
    assert {float(value) for name, value in state.items() if name.startswith("step/")} == {2.0}
