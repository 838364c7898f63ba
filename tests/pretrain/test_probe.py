"""`pretrain/probe.py` on every task: what it prints, what it writes, and what it refuses."""

import json
import os
import re
import shutil
import signal
import sys

import commands
import numpy as np
import pytest
from tiny import pictures

from pretrain import probe
from pretrain.probes import tasks
from pretrain.probes.settings import READ_BY
from vlm.errors import UserError, run_command

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 220)}


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """Class folders of plain colours, which any encoder tells apart."""
    root, generator = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for name, color in COLORS.items():
            for index in range(count):
                image = pictures.speckled(color, 48, 12, generator)
                pictures.save(image, root / split / name / f"{index}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The probes' folders of the embedded world, with fewer pictures, 30 captioned scenes and a GQA folder."""
    from world import files, gqa, probes, scenes

    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "IN_CLASS", {"train": 4, "val": 2})
        patch.setattr(probes, "MASKS", {"training": ("probe_train", 8), "validation": ("probe_val", 4)})
        probes.write_probes(root, seed=0)
    (root / "gqa/images").mkdir(parents=True)
    for split in ("train", "val"):
        drawn = [scenes.make_scene(0, split, index) for index in range(30)]
        pictures = files.write_shards(root / "captions", split, drawn, keep=30)
        for scene, data in zip(drawn, pictures):
            (root / "gqa/images" / f"{scene.image_id}.jpg").write_bytes(data)
        graphs = {str(scene.image_id): gqa.scene_graph(scene) for scene in drawn}
        (root / "gqa" / f"{split}_sceneGraphs.json").write_text(json.dumps(graphs))
    return root


@pytest.fixture
def command(encoder_folder, tmp_path, monkeypatch, capsys):
    """Runs the command in this process. Returns what it printed and the numbers it wrote."""
    monkeypatch.setattr("pretrain.probes.heads.MIN_STEPS", 30)
    monkeypatch.setattr("pretrain.probes.heads.LEARNING_RATE", 1e-2)

    def run(task, data, *flags):
        line = ["probe.py", str(encoder_folder), "--task", task, "--data", str(data), *flags]
        monkeypatch.setattr(sys, "argv", [*line, "--json", str(tmp_path / "out.json")])
        run_command(probe.main)
        return capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())

    return run


@pytest.mark.parametrize("task", ["linear", "knn", "attentive"])
def test_colours_are_told_apart(command, colors, task):
    line, numbers = command(task, colors)
    assert numbers["accuracy"] == 1.0 and line.startswith(f"{task:<13} accuracy 1  ")
    assert (numbers["classes"], numbers["train_images"], numbers["images"]) == (3, 30, 12)
    assert numbers["task"] == task and numbers["data"] == str(colors)


def test_zero_shot_reads_the_templates_and_names_it_is_given(command, colors, tmp_path):
    (tmp_path / "names").write_text("red scarlet, red\nblue sky\ngreen grass\n")
    flags = ["--template", "a {} picture", "--class-names", str(tmp_path / "names")]
    line, numbers = command("zero-shot", colors, *flags)
    assert 0 <= numbers["accuracy"] <= 1 and (numbers["classes"], numbers["images"]) == (3, 12)
    assert line == f"zero-shot     accuracy {numbers['accuracy']:.4g}  classes 3  images 12\n"


class Watched:
    """Settings that know which of them were read."""

    def over(self, config):
        self.config, self.read = config, set()
        return self

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self.config, name)


@pytest.mark.parametrize(
    ("task", "data", "expected"),
    [
        ("zero-shot", "classes", {"classes": 8, "images": 16}),
        ("linear", "classes", {"classes": 8, "images": 16, "train_images": 32}),
        ("knn", "classes", {"classes": 8, "images": 16, "train_images": 32}),
        ("attentive", "classes", {"classes": 8, "images": 16, "train_images": 32}),
        ("segmentation", "segmentation", {"images": 4, "train_images": 8}),
        ("backgrounds", "backgrounds", {"images": 16}),
        ("retrieval", "captions/val-*.tar", {"pool": 20, "embed_dim": 8}),
        ("objects", "gqa", {"names": 8}),
    ],
)
def test_every_task_on_the_world(command, world, monkeypatch, task, data, expected):
    measure, watched = tasks.TASKS[task], Watched()
    monkeypatch.setitem(tasks.TASKS, task, lambda encoder, config: measure(encoder, watched.over(config)))
    _, numbers = command(task, world / data, *(["--pool", "20"] if task == "retrieval" else []))
    assert watched.read & set(READ_BY) == {name for name, readers in READ_BY.items() if task in readers}
    assert {name: numbers[name] for name in expected} == expected
    shares = [value for name, value in numbers.items() if name.startswith(("accuracy", "miou", "auc_", "image_to"))]
    assert all(0 <= share <= 1 for share in shares if isinstance(share, float))
    if task == "backgrounds":
        for reading in ("zero_shot", "linear"):
            for name in ("mixed_same", "mixed_rand"):
                drop = numbers[f"{reading}_original"] - numbers[f"{reading}_{name}"]
                assert numbers[f"{reading}_drop_{name}"] == drop


def test_backgrounds_without_a_train_split_are_read_by_captions_alone(command, world, tmp_path):
    for name in ("original", "mixed_same", "mixed_rand"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "val").symlink_to(world / "backgrounds" / name / "val")
    _, numbers = command("backgrounds", tmp_path)
    assert "zero_shot_drop_mixed_rand" in numbers and not any(name.startswith("linear") for name in numbers)


@pytest.mark.parametrize("part", ["mixed_rand/val", "original/train"])
def test_backgrounds_need_the_same_classes_in_each_part(command, world, tmp_path, capsys, part):
    root = tmp_path / "backgrounds"
    shutil.copytree(world / "backgrounds", root)
    shutil.rmtree(root / part / "02_moon")
    with pytest.raises(SystemExit):
        command("backgrounds", root)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {root / part} has no class '02_moon', which original/val has: all need the same classes"


def test_a_json_that_is_a_folder_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["probe.py", "none", "--task", "knn", "--data", "none", "--json", str(tmp_path)])
    with pytest.raises(UserError, match=rf"--json {tmp_path}: give a file, such as {tmp_path}/numbers\.json"):
        probe.main()


@pytest.mark.parametrize(
    ("task", "data", "flags", "message"),
    [
        ("linear", "classes/val", (), "has no train folder, only class folders alone"),
        ("linear", "nowhere/at/all", (), "does not exist: give a folder of class folders"),
        ("knn", "segmentation", (), "has no train folder"),
        ("zero-shot", "classes", ("--template", "a star"), "needs one {}"),
        ("zero-shot", "classes", ("--class-names", "nowhere.txt"), "--class-names nowhere.txt cannot be read"),
        ("segmentation", "classes", (), "has neither ADE20K's images/training"),
        ("backgrounds", "classes", (), "original/val does not exist"),
        ("retrieval", "captions/val-*.tar", ("--pool", "31"), "holds 30 usable pairs: give --pool 30 or less"),
        ("retrieval", "captions/val-*.tar", ("--pool", "4"), "--pool 4: give 5 or more"),
        ("zero-shot", "classes", ("--class-names", "/"), "--class-names / cannot be read: Is a directory"),
        ("objects", "classes", (), "train_sceneGraphs.json does not exist"),
        ("linear", "classes", ("--seed", "-1"), "--seed -1: give 0 to 18446744073709551615"),
        ("linear", "classes", ("--label-column", "x"), "--label-column x is of data sets"),
        ("knn", "classes", ("--image-root", "x"), "--image-root x is of data sets"),
        ("linear", "classes", ("--heads", "9"), "has 2 attention heads, and says so: leave it out"),
        ("knn", "classes", ("--pool", "9"), "--task knn does not read --pool (of retrieval): leave out"),
        (
            "objects",
            "gqa",
            ("--template", "a {}", "--tokens", "x"),
            "does not read --template (of zero-shot, backgrounds), --tokens (of attentive, segmentation): leave out",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, world, capsys, task, data, flags, message):
    with pytest.raises(SystemExit) as stopped:
        command(task, world / data, *flags)
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and error.startswith("error: ") and message in error


def test_idle_flags_are_refused_before_an_encoder_is_opened():
    line = ["nowhere", "--task", "segmentation", "--data", "nowhere"]
    for flags, message in (
        (["--caption-column", "txt"], "--task segmentation does not read --caption-column (of retrieval)"),
        (["--resize", "crop"], "--resize crop: the masks of segmentation label whole pictures, leave it out"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            probe.parse([*line, *flags])
    assert probe.parse([*line, "--tokens", "here", "--resize", "squash"]).tokens == "here"


def test_the_examples_of_the_help_stand_on_lines_of_their_own(capsys):
    with pytest.raises(SystemExit):
        probe.parse(["--help"])
    examples = capsys.readouterr().out.partition("examples:")[2]
    assert "--data /data/imagenet \\\n      --resize crop --tokens /scratch\n" in examples
    assert max(map(len, examples.splitlines())) <= 120


def test_a_probe_that_is_stopped_says_so_in_one_line(command, colors, monkeypatch, capsys):
    monkeypatch.setattr("pretrain.probes.tasks.measure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        command("knn", colors)
    assert end.value.code == 143
    assert capsys.readouterr().err.splitlines()[-1] == (
        "terminated: nothing is written before the end, the same command starts anew"
    )


def test_a_process_that_hangs_is_named_in_one_line(encoder_folder, colors):
    flags = ("--task", "knn", "--data", colors, "--timeout", "0.1")
    done = commands.beside_one_that_hangs("pretrain/probe.py", encoder_folder, *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert [line for line in done.stderr.splitlines() if "error" in line.lower()] == [
        "error: rank 0 waited 0.1 minutes for rank 1, which hangs or is too slow: nothing is written before the end, "
        "the same command starts anew; see --timeout"
    ]
