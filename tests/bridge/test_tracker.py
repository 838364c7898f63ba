"""What a run shows while it learns: grouped scalars, held-out answers; and that training does not notice."""

import shutil
from importlib.util import find_spec

import pytest
import torch
from tiny.official import COLOURS, gqa_question, write_lines

from bridge.held_out import as_table, held_out_sets
from vlm.files import read_jsonl, write_json

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def events_of(run):
    found = accumulators.EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def with_val(training, tmp_path_factory):
    """The run's GQA with a val split of twelve questions about images of its own."""
    folder = tmp_path_factory.mktemp("held") / "gqa"
    shutil.copytree(training.root / "gqa", folder)
    questions = {}
    for number in range(12):
        shutil.copy(folder / f"images/{number}.jpg", folder / f"images/{100 + number}.jpg")
        answer = list(COLOURS)[number % 3]
        questions[f"v{number}"] = gqa_question(answer, question="Which colour is it?", image=str(100 + number))
    write_json(folder / "val_balanced_questions.json", questions)
    return folder


def test_a_run_that_is_watched_is_the_same_run(training, whole, with_val, tmp_path):
    out = tmp_path / "watched"
    flags = ("--gqa", str(with_val), "--tracker", "tensorboard", "--log-every", "5", "--show-every", "4")
    training.command(*training.flags(out, *flags))
    assert training.losses(out) == training.losses(whole)
    assert all(torch.equal(training.weights(out)[name], value) for name, value in training.weights(whole).items())
    first = list(read_jsonl(out / "held_out.jsonl"))

    # As if killed after step 11, when step 10 was the last checkpoint.
    shutil.rmtree(out / "vlm")
    shutil.rmtree(out / "checkpoints/step_12")
    training.run(out, *flags)
    assert training.losses(out) == training.losses(whole)
    looks = list(read_jsonl(out / "held_out.jsonl"))
    assert looks == first
    assert [look["step"] for look in looks] == [3, 7, 11]
    assert {look["source"] for look in looks} == {"gqa val"}
    assert [len(look["answers"]) for look in looks] == [8, 8, 8]
    assert all(row["question_id"].startswith("v") and row["truth"] in COLOURS for row in looks[0]["answers"])

    events = events_of(out)
    assert sorted(events.Tags()["scalars"]) == [
        "gradient/gradient_norm",
        "loss/total",
        "lr",
        "speed/questions_per_s",
        "speed/samples_per_s",
        "step/answer_tokens",
        "step/questions",
        "step/tokens",
    ]
    shown = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert shown == [(step, pytest.approx(loss)) for step, loss in enumerate(training.losses(whole))]
    assert [event.step for event in events.Images("answers")] == [3, 7, 11]
    assert (events.Images("answers")[0].width, events.Images("answers")[0].height) == (1040, 640)


def test_lora_gradient_checkpointing_and_trained_questions(training, tmp_path, capsys):
    """Without another split, trained questions are shown, which is said; modules are left as they were."""
    flags = ("--lora", "2", "--gradient-checkpointing", "--tracker", "none")
    training.run(tmp_path / "plain", *flags)
    training.run(tmp_path / "shown", *flags, "--show-every", "6")
    assert "no split beside those trained on, so trained questions are shown" in capsys.readouterr().err
    assert training.losses(tmp_path / "plain") == training.losses(tmp_path / "shown")
    looks = list(read_jsonl(tmp_path / "shown/held_out.jsonl"))
    assert [look["step"] for look in looks] == [5, 11]
    assert {look["source"] for look in looks} == {"trained on"}
    assert not (tmp_path / "shown/tensorboard").exists()


def test_conversations(training, tmp_path):
    turns = [{"from": "human", "value": "What is it? <image>"}, {"from": "gpt", "value": "red"}]
    talk = write_lines(tmp_path / "talk.json", [{"id": "a", "image": "0.jpg", "conversations": turns}])
    flags = training.flags(tmp_path / "run", "--conversations", str(talk), "--show-every", "12")
    del flags[:4]  # of --gqa and --vqav2
    training.command(*flags, "--conversation-images", str(training.root / "gqa/images"))
    (look,) = read_jsonl(tmp_path / "run/held_out.jsonl")
    (row,) = look["answers"]
    assert (row["question_id"], row["question"], row["truth"]) == ("0", "What is it? <image>", "red")


def test_the_split_that_is_trained_on_is_not_held_out(with_val):
    from bridge.config import BridgeConfig

    assert list(held_out_sets(BridgeConfig(gqa=str(with_val)))) == ["gqa val"]
    assert held_out_sets(BridgeConfig(gqa=str(with_val), gqa_split="train+val_all")) == {}
    assert held_out_sets(BridgeConfig(gqa="lmms-lab/GQA")) == {}


def test_a_cell_of_the_table_keeps_its_bars():
    row = {"question": "a|b\nc", "truth": "yes", "answer": "no"}
    assert as_table([row]).splitlines()[2] == "| a\\|b c | yes | no |"


def test_a_tracker_that_is_missing_is_told_before_anything_is_loaded(training, tmp_path):
    if find_spec("trackio"):
        pytest.skip("trackio is installed")
    printed = training.command(*training.flags(tmp_path / "run", "--tracker", "trackio"), expect=2)
    assert "--tracker trackio: that package is not installed: pip install trackio" in printed
    assert not (tmp_path / "run").exists()
