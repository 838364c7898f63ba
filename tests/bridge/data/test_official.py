"""Literal files give literal examples; each kind of bad input gives one line that names the file."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from tiny.official import pope_line, vqav2_annotation, vqav2_question, write_lines, write_vqav2

from bridge.data import official
from bridge.data.example import Example, with_sampled_answer
from bridge.data.image_folder import ImageFolder
from vlm.errors import UserError


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def make_vqav2(root: Path, split="val2014", subtype="val2014", annotated=True) -> Path:
    questions = [vqav2_question(262148000, 262148), vqav2_question(7, 9, "How many?")]
    annotations = [vqav2_annotation(262148000, ["yes"] * 10), vqav2_annotation(7, ["2"] * 7 + ["3"] * 3)]
    write_vqav2(root, split, questions, annotations if annotated else None)
    touch(root / subtype / f"COCO_{subtype}_000000262148.jpg")
    touch(root / subtype / f"COCO_{subtype}_000000000009.png")
    return root


def test_vqav2(tmp_path):
    examples = official.vqav2(make_vqav2(tmp_path), "val2014")
    folder = tmp_path / "val2014"
    assert examples == [
        Example("262148000", folder / "COCO_val2014_000000262148.jpg", "Is it red?", "yes", ("yes",) * 10),
        Example("7", folder / "COCO_val2014_000000000009.png", "How many?", "2", ("2",) * 7 + ("3",) * 3),
    ]


def test_vqav2_test_dev_images_and_no_annotations(tmp_path):
    examples = official.vqav2(make_vqav2(tmp_path, "test-dev2015", "test2015", annotated=False), "test-dev2015")
    assert [(e.image.name, e.answer) for e in examples] == [
        ("COCO_test2015_000000262148.jpg", None),
        ("COCO_test2015_000000000009.png", None),
    ]


def test_gqa(tmp_path):
    record = {"question": "Is it overcast?", "answer": "no", "imageId": "n161313", "isBalanced": True}
    write(tmp_path / "val_balanced_questions.json", {"0201307251": record})
    touch(tmp_path / "images/n161313.jpg")
    expected = [Example("0201307251", tmp_path / "images/n161313.jpg", "Is it overcast?", "no")]
    assert official.gqa(tmp_path, "val") == official.gqa(tmp_path, "val_balanced") == expected


def test_gqa_in_chunks(tmp_path):
    for chunk in range(2):
        record = {"question": f"q{chunk}", "imageId": "1"}
        write(tmp_path / f"train_all_questions/train_all_questions_{chunk}.json", {f"id{chunk}": record})
    (tmp_path / "train_all_questions/._train_all_questions_0.json").write_bytes(b"\0\5\26\7")  # a Mac's
    touch(tmp_path / "images/1.jpg")
    assert [(e.question_id, e.question, e.answer) for e in official.gqa(tmp_path, "train_all")] == [
        ("id0", "q0", None),
        ("id1", "q1", None),
    ]


def test_pope(tmp_path):
    line = pope_line(1, "COCO_val2014_000000310196.jpg", "Is there a dog?", "no")
    write_lines(tmp_path / "coco_pope_popular.json", [line])
    touch(tmp_path / "val2014/COCO_val2014_000000310196.jpg")
    expected = Example("1", tmp_path / "val2014/COCO_val2014_000000310196.jpg", "Is there a dog?", "no")
    assert official.pope(tmp_path, "popular") == [expected]


def test_sampled_answer_follows_the_votes_and_the_key():
    example = Example("7", Path("x.jpg"), "How many?", "2", ("2",) * 7 + ("3",) * 3)
    drawn = [with_sampled_answer(example, seed=0, epoch=epoch).answer for epoch in range(400)]
    assert drawn == [with_sampled_answer(example, seed=0, epoch=epoch).answer for epoch in range(400)]
    assert 240 <= Counter(drawn)["2"] <= 320
    blank = Example("7", Path("x.jpg"), "How many?", "2", ("", " ", "2"))
    assert {with_sampled_answer(blank, 0, epoch).answer for epoch in range(20)} == {"2"}
    unvoted = Example("7", Path("x.jpg"), "How many?", "2")
    assert with_sampled_answer(unvoted, 0, 0) is unvoted


def missing_images(root):
    make_vqav2(root)
    (root / "val2014/COCO_val2014_000000000009.png").unlink()


def missing_folder(root):
    make_vqav2(root)
    for image in (root / "val2014").iterdir():
        image.unlink()
    (root / "val2014").rmdir()


def broken_json(root):
    make_vqav2(root)
    write(root / "v2_mscoco_val2014_annotations.json", '{"annotations": [')


def no_such_field(root):
    make_vqav2(root)
    write(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [{"question_id": 7, "image_id": 9}]})


def foreign_annotations(root):
    make_vqav2(root)
    write(root / "v2_mscoco_val2014_annotations.json", {"annotations": [vqav2_annotation(7, ["2"])]})


def repeated_ids(root):
    make_vqav2(root, annotated=False)
    write_vqav2(root, "val2014", [vqav2_question(7, 9)] * 2)


def no_question(root):
    make_vqav2(root)
    write_vqav2(root, "val2014", [])


def half_a_character(root):
    make_vqav2(root)
    file = root / "v2_OpenEnded_mscoco_val2014_questions.json"
    file.write_text(file.read_text().replace("How many?", "How \\ud83d?"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: root.joinpath("x").touch(), "v2_OpenEnded_mscoco_val2014_questions.json is missing"),
        (missing_images, "1 of 2 images .* are missing, the first: .*COCO_val2014_000000000009.jpg"),
        (missing_folder, "the image folder .*val2014 is missing"),
        (broken_json, "v2_mscoco_val2014_annotations.json is not valid JSON"),
        (no_such_field, r"question 7: the field 'question' \(str\)"),
        (foreign_annotations, "has no annotation of question 262148000"),
        (repeated_ids, "1 question ids occur more than once, the first: 7"),
        (half_a_character, r"question 7: the field 'question' is not valid Unicode text \('How .ud83d"),
        (no_question, "holds no question"),
    ],
)
def test_bad_input_is_one_line(tmp_path, break_it, message):
    break_it(tmp_path)
    with pytest.raises(UserError, match=message):
        official.vqav2(tmp_path, "val2014")


def test_missing_images_can_be_allowed(tmp_path):
    missing_images(tmp_path)
    assert [e.image.exists() for e in official.vqav2(tmp_path, "val2014", allow_missing=True)] == [True, False]


def test_image_names_cannot_leave_the_folder(tmp_path):
    write_lines(tmp_path / "coco_pope_random.json", [pope_line(1, "../secret.jpg", "?", "no")])
    touch(tmp_path / "val2014/x.jpg")
    with pytest.raises(UserError, match="leads out of"):
        official.pope(tmp_path, "random")


def test_images_may_be_links_to_another_disk(tmp_path):
    for kind in ("val2014", "disk/1.jpg", "disk/2.png"):
        touch(tmp_path / kind / "x" if kind == "val2014" else tmp_path / kind)
    (tmp_path / "secret.txt").write_text("root:x:0")
    os.mkfifo(tmp_path / "fifo.jpg")
    write_lines(tmp_path / "coco_pope_random.json", [pope_line(1, "1.jpg", "?", "no")])
    link = tmp_path / "val2014/1.jpg"
    for target in ("disk/1.jpg", "disk/2.png"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target)
        assert [each.image for each in official.pope(tmp_path, "random")] == [link]
    for target in ("secret.txt", "fifo.jpg", "/etc/passwd", "/dev/zero"):
        link.unlink()
        link.symlink_to(tmp_path / target)
        with pytest.raises(UserError, match=r"image name '1\.jpg' leads out of .*/val2014 by a link"):
            official.pope(tmp_path, "random")
    link.unlink()
    link.symlink_to(tmp_path / "not mounted/1.jpg")
    with pytest.raises(UserError, match=r"1 of 1 images .* are missing"):
        official.pope(tmp_path, "random")


def test_a_folder_of_images_may_be_a_link(tmp_path):
    write(tmp_path / "gqa/val_balanced_questions.json", {"1": {"question": "q", "imageId": "vg/1"}})
    (tmp_path / "gqa/images").mkdir()
    touch(tmp_path / "disk/1.jpg")
    (tmp_path / "gqa/images/vg").symlink_to(tmp_path / "disk")
    assert official.gqa(tmp_path / "gqa", "val")[0].image == tmp_path / "gqa/images/vg/1.jpg"


def test_gqa_files_of_another_kind(tmp_path):
    record = {"question": "q", "imageId": "1"}
    touch(tmp_path / "images/1.jpg")
    for number, key in enumerate("aba"):
        write(tmp_path / f"train_all_questions/train_all_questions_{number}.json", {key: record})
    with pytest.raises(UserError, match=r"train_all_questions_2\.json repeats 1 questions of another chunk, .*: a"):
        official.gqa(tmp_path, "train_all")
    write(tmp_path / "val_balanced_questions.json", {"info": {}, "questions": [vqav2_question(7, 9)]})
    with pytest.raises(UserError, match=r"val_balanced_questions\.json is not a GQA file"):
        official.gqa(tmp_path, "val")


def test_a_pope_file_that_was_cut_off_is_refused(tmp_path):
    line = json.dumps(pope_line(1, "1.jpg", "Is there a dog?", "no"))
    write(tmp_path / "coco_pope_random.json", line + "\n" + line[:40])
    touch(tmp_path / "val2014/1.jpg")
    with pytest.raises(UserError, match=r"coco_pope_random\.json, line 2 is not JSON: .* cut off"):
        official.pope(tmp_path, "random")


def test_coco_in_its_division_of_2017(tmp_path):
    write_vqav2(tmp_path, "val2014", [vqav2_question(1, 42), vqav2_question(2, 43), vqav2_question(3, 44)])
    for name in ("train2017/000000000042.jpg", "val2017/000000000043.jpg", "val2014/000000000044.png"):
        touch(tmp_path / name)
    found = [str(e.image.relative_to(tmp_path)) for e in official.vqav2(tmp_path, "val2014")]
    assert found == ["train2017/000000000042.jpg", "val2017/000000000043.jpg", "val2014/000000000044.png"]


def test_only_a_suffix_of_images_is_exchanged_and_a_folder_is_no_image(tmp_path):
    for name in ("1.jpg", "a.png", "B.JPEG"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    images = ImageFolder(tmp_path)
    assert [images.find(name).name for name in ("1.png", "1", "a.JPG", "B.jpg")] == [
        "1.jpg", "1.jpg", "a.png", "B.JPEG"
    ]  # fmt: skip
    assert images.find("1.5").name == "1.5" and images.find("folder.jpg").name == "folder.jpg"
    assert {path.name for path in images.missing} == {"1.5", "folder.jpg"}
