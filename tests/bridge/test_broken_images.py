"""Images that cannot be decoded: a run is the same with cached and with live features, interrupted or not."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny import pictures

import bridge.loop
from bridge.config import parse_config
from bridge.gradients import Sums, update
from bridge.loop import train
from bridge.train import load_examples
from vlm.errors import UserError
from vlm.files import read_json, write_json

CACHED, LIVE = ("--features",), ("--no-cache",)
BROKEN, TEXT = "2", "3-0"  # an image of which only decoding tells; a question with a text that no row may hold


@pytest.fixture(scope="module")
def data(training, tmp_path_factory) -> Path:
    """GQA's 12 questions about six images, two a step: each pass over them has a step that a broken image empties."""
    root = tmp_path_factory.mktemp("broken")
    shutil.copytree(training.root / "gqa", root / "gqa")
    file = root / "gqa/train_balanced_questions.json"
    records = {key: record for key, record in read_json(file).items() if int(record["imageId"]) < 6}
    records[TEXT]["answer"] = "<|im_end|>"
    write_json(file, records)
    image = root / f"gqa/images/{BROKEN}.jpg"
    pictures.save(pictures.noise(32, 32, seed=1), image)  # large enough that its header is whole
    image.write_bytes(image.read_bytes()[:-100])
    return root


def run(training, root: Path, out: Path, features: tuple[str, ...], *more: str) -> None:
    """Two passes in twelve steps."""
    given = [*features, str(out.parent / "features")] if features == CACHED else [*features]
    flags = training.flags(out, "--gqa", str(root / "gqa"), "--batch-questions", "2", *given, *more)
    at = flags.index("--vqav2")
    config = parse_config([*flags[:at], *flags[at + 2 :]])
    train(config, load_examples(config))


def cut_at_step_5(training, root: Path, out: Path, features: tuple[str, ...], monkeypatch) -> None:
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(bridge.loop, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        run(training, root, out, features)
    monkeypatch.undo()
    assert [folder.name for folder in (out / "checkpoints").iterdir()] == ["step_5"]


@pytest.fixture(scope="module")
def uninterrupted(training, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    run(training, data, out, LIVE)
    return out


def course(training, out: Path) -> list[tuple]:
    names = ("step", "lr", "questions", "gradient_norm")
    return [(*(line[name] for name in names), repr(line["loss"])) for line in training.metrics(out)]


def assert_same(training, one: Path, other: Path) -> None:
    assert course(training, one) == course(training, other)
    weights = training.weights(other)
    assert all(torch.equal(value, weights[name]) for name, value in training.weights(one).items())


def test_an_emptied_step_counts_and_moves_nothing(training, data, uninterrupted, tmp_path):
    lines = training.metrics(uninterrupted)
    questions = [line["questions"] for line in lines]
    for epoch in (questions[:6], questions[6:]):
        assert sorted(epoch) == [0, 1, 2, 2, 2, 2]
    assert [line["gradient_norm"] is None and line["loss"] is None for line in lines] == [n == 0 for n in questions]
    run(training, data, tmp_path / "cached", CACHED)
    assert_same(training, tmp_path / "cached", uninterrupted)


@pytest.mark.parametrize(("before", "after"), [(CACHED, LIVE), (LIVE, CACHED)], ids=["to live", "to cached"])
def test_a_run_goes_on_with_the_other_kind_of_features(
    training, data, uninterrupted, tmp_path, monkeypatch, before, after
):
    shutil.copytree(data, tmp_path / "data")
    cut_at_step_5(training, tmp_path / "data", tmp_path / "out", before, monkeypatch)
    again = (training, tmp_path / "data", tmp_path / "out", after)
    if before == CACHED:  # it has listed every question about the image: mended, they stay out
        shutil.copy(training.root / f"gqa/images/{BROKEN}.jpg", tmp_path / f"data/gqa/images/{BROKEN}.jpg")
        with pytest.raises(UserError, match=r"if images were only repaired, --allow-change images goes on without"):
            run(*again)
        again = (*again, "--allow-change", "images")
    run(*again)
    assert_same(training, tmp_path / "out", uninterrupted)


@pytest.mark.parametrize(("made", "again"), [(LIVE, CACHED), (CACHED, ())], ids=["cached", "default"])
def test_a_finished_run_called_again_changes_nothing(training, data, tmp_path, made, again):
    def files() -> dict[str, bytes]:
        names = ("checkpoints/*/*", "metrics.jsonl", "quarantine.jsonl", "vlm/*")
        return {str(path): path.read_bytes() for name in names for path in (tmp_path / "out").glob(name)}

    run(training, data, tmp_path / "out", made)
    before = files()
    run(training, data, tmp_path / "out", again)
    assert files() == before


def test_momentum_and_decay_stand_still_without_an_answer():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5, fused=True)
    weight.grad = torch.full((3,), 2.0)
    update([weight], optimizer, Sums(torch.tensor([6.0, 2, 9, 1, 0])).loss, clip=1.0)
    moved = weight.tolist()
    assert moved[0] == pytest.approx(1 - 0.1 * 0.5 - 0.1)
    weight.grad = torch.zeros(3)
    update([weight], optimizer, Sums(torch.tensor([0.0, 0, 0, 0, 1])).loss, clip=1.0)
    assert (weight.tolist(), optimizer.state[weight]["step"].item()) == (moved, 1)
