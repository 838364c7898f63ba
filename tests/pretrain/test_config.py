"""Settings: what each objective fixes, and combinations that are refused."""

import re
import shlex
from dataclasses import asdict, replace

import pytest

from pretrain import checkpoints
from pretrain.config import PretrainConfig, from_preset
from pretrain.run import EXAMPLES, parse
from vlm.errors import UserError
from vlm.run.schedule import same_past


def examples():
    """The flags of each example of pretrain/run.py in --help, without what is said of it."""
    commands = [re.split(" {4,}", line.strip())[0] for line in EXAMPLES.splitlines() if "pretrain/run.py" in line]
    return [shlex.split(command.split("pretrain/run.py")[1]) for command in commands]


@pytest.mark.parametrize("flags", examples(), ids=" ".join)
def test_examples_of_the_help_are_settings_and_large_ones_name_their_data(flags):
    config = parse(flags)
    assert config.preset == "tiny" or config.data != PretrainConfig.data


def test_the_help_has_ten_examples():
    assert len(examples()) == 10 and examples()[0] == []


def test_the_example_of_a_decay_begins_it_after_the_branch():
    config = parse(next(flags for flags in examples() if "--branch" in flags))
    assert (config.branch_step, config.schedule, config.steps) == (40_000, "wsd", 47_100)
    source, late = asdict(replace(config, steps=100_000)), asdict(replace(config, steps=47_000))
    assert same_past(40_000, source, asdict(config)) and not same_past(40_000, source, late)
    at_once = asdict(replace(config, steps=47_059))  # 40,000 / 0.85 = 47,058.8
    assert same_past(40_000, source, at_once) and not same_past(40_002, source, at_once)


def test_objectives_share_everything_but_what_defines_them():
    runs = {name: vars(parse(["--objective", name])) for name in ("levljepa", "levljepa-plus", "clip", "siglip")}
    different = {
        name: {key: value for key, value in run.items() if value != runs["levljepa"][key] and key != "objective"}
        for name, run in runs.items()
    }
    assert different == {
        "levljepa": {},
        "levljepa-plus": {"augmentation": "dino"},
        "clip": {"projector_depth": 0},
        "siglip": {"projector_depth": 0},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(objective="clip", projector_depth=2), "--projector-depth 2: --objective clip has no predictors"),
        (dict(projector_depth=0), "--projector-depth 0: --objective levljepa needs"),
        (dict(augmentation="dino"), "--augmentation dino: --objective levljepa needs crop-jitter or squash"),
        (dict(objective="levljepa-plus", augmentation="squash"), "--objective levljepa-plus needs dino"),
        (dict(objective="levljepa-plus", lambda_multi=0.97), "together below 1"),
        (dict(lambda_image=-0.1), "each at least 0"),
        (dict(objective="clip", directions=64), "--directions has no effect with --objective clip"),
        (dict(objective="siglip", lambda_text=0.1), "--lambda-text has no effect with --objective siglip"),
        (dict(lambda_multi=0.1), "--lambda-multi has no effect with --objective levljepa: leave it out"),
        (dict(micro_batch_size=33), "--micro-batch-size 33 is above --batch-size 32"),
        (dict(bad_ratio=5.0), "--bad-ratio 5.0: give 0 to 1"),
        (dict(probe_every=5), "^--probe-every 5: give also --probe-data with captions .*, or --probe-classes$"),
        (dict(probe_classes="c"), "^--probe-classes c: give also --probe-every with a number of steps, or leave"),
        (dict(probe_data="d", probe_classes="c"), "^--probe-data d --probe-classes c: give also --probe-every with"),
        (dict(steps=200, warmup_steps=200), "--steps 200 and --schedule cosine at most 199 can be warm-up"),
        (dict(steps=200, warmup_steps=171, schedule="wsd"), "--schedule wsd at most 170 can be warm-up"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        from_preset("tiny", **changes)


def test_weights_that_are_not_read_are_not_judged():
    replace(from_preset("tiny", objective="clip"), lambda_image=0.9, lambda_text=0.9).check()


def test_a_presets_warmup_is_shortened_where_it_does_not_fit():
    warmup = {steps: from_preset("tiny", steps=steps).warmup_steps for steps in (4500, 201, 200, 5, 0)}
    assert warmup == {4500: 200, 201: 200, 200: 20, 5: 0, 0: 200}
    assert from_preset("tiny", steps=230, schedule="wsd").warmup_steps == 23
    assert from_preset("tiny", steps=200, warmup_steps=199).warmup_steps == 199


def test_what_may_differ_in_a_continued_run(tmp_path):
    (tmp_path / "a.json").write_text("a")
    (tmp_path / "moved.json").write_text("a")
    (tmp_path / "edited.json").write_text("b")
    first, moved, edited = (
        checkpoints.open_checkpoints(
            tmp_path, from_preset("tiny", tokenizer=str(tmp_path / name), bad_ratio=ratio), "data"
        ).settings
        for name, ratio in (("a.json", 0.05), ("moved.json", 0.5), ("edited.json", 0.05))
    )
    assert first == moved and first != edited
