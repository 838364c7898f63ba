"""easy-VQA in VQAv2's files: captions word for word, official records, splits, refusals."""

import fcntl
import json
import os
import sys
import tarfile
from pathlib import Path

import prepare_easy_vqa
import pytest
from PIL import Image
from world import easy_vqa

from bridge.data import official
from bridge.scoring import vqav2
from vlm.errors import UserError


@pytest.fixture(scope="module")
def easy():
    return easy_vqa


@pytest.fixture
def pictures(easy, tmp_path):
    """20 training and 3 test images, each with two questions."""

    def picture(image_id):
        path = tmp_path / f"{image_id}.png"
        Image.new("RGB", (8, 8), (image_id % 256, 0, 0)).save(path)
        pairs = (("what color is the shape?", "teal"), ("is there not a circle in the image?", "no"))
        return easy.Picture(image_id, path, pairs)

    return [picture(10_000 + number) for number in range(20)], [picture(20_000 + number) for number in range(3)]


@pytest.mark.parametrize(
    ("image_id", "pairs", "expected"),
    [
        (10_000, [("what is the blue shape?", "rectangle"), ("is there a circle?", "no")], "a blue rectangle"),
        (10_001, [("what color is the triangle?", "red")], "a red triangle"),
        (
            10_002,
            [("is a gray shape present?", "yes"), ("is no circle present?", "no")],
            "a picture of a circle that is gray",
        ),
        (10_003, [("does the image not contain a teal shape?", "no")], "a teal shape"),
        (10_005, [("what shape is present?", "circle"), ("is there a red shape?", "no")], "a picture of a circle"),
        (
            10_006,
            [("is no circle present?", "yes"), ("is there a red shape?", "no"), ("is there not a blue shape?", "yes")],
            "the image shows a shape that is not blue, not red, not a circle",
        ),
    ],
)
def test_captions(easy, image_id, pairs, expected):
    assert easy.caption(easy.Picture(image_id, Path("x.png"), tuple(pairs))) == expected


def test_unknown_questions_are_refused(easy):
    with pytest.raises(UserError, match="easy-VQA has 'how many shapes are there\\?' with '2'"):
        easy.caption(easy.Picture(1, Path("x.png"), (("how many shapes are there?", "2"),)))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what is the color of the circle?", "what is the color of the"),
        ("what color is the shape?", "what color is the"),
        ("what is the blue shape?", "what is the"),
        ("what shape is present?", "what"),
        ("is there a red shape?", "is there a"),
        ("is there not a red shape?", "is there"),
        ("is no circle present?", "is"),
        ("does the image contain a circle?", "does the"),
        ("Is there a bird?", "is there a"),  # as prepare_pictures.py asks
        ("name it", "none of the above"),
    ],
)
def test_question_types(easy, question, expected):
    assert easy.question_type(question) == expected


def test_files(easy, pictures, tmp_path):
    counts = easy.prepare(tmp_path / "out", *pictures, val_fraction=0.1)
    assert counts == {
        "train2014": {"images": 18, "questions": 36, "captions": 18},
        "minival2014": {"images": 2, "questions": 4, "captions": 2},
        "val2014": {"images": 3, "questions": 6, "captions": 3},
    }
    folder = tmp_path / "out" / "vqav2"
    examples = {split: official.vqav2(folder, split) for split in counts}  # refuses missing images
    images = {split: {example.image.name for example in found} for split, found in examples.items()}
    assert sorted(images["val2014"]) == [f"COCO_val2014_{number:012d}.png" for number in (20_000, 20_001, 20_002)]
    assert all(name.startswith("COCO_val2014_00000001") for name in images["minival2014"])
    numbers = {split: {int(name[-16:-4]) for name in names} for split, names in images.items()}
    assert numbers["train2014"] | numbers["minival2014"] == set(range(10_000, 10_020))

    questions = json.loads((folder / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    annotations = json.loads((folder / "v2_mscoco_val2014_annotations.json").read_text())
    assert questions["questions"][3] == {
        "image_id": 20_001,
        "question_id": 20_001_001,
        "question": "is there not a circle in the image?",
    }
    assert annotations["annotations"][3] == {
        "image_id": 20_001,
        "question_id": 20_001_001,
        "question_type": "is there",
        "answer_type": "yes/no",
        "multiple_choice_answer": "no",
        "answers": [{"answer": "no", "answer_confidence": "yes", "answer_id": person} for person in range(1, 11)],
    }
    answers = {example.question_id: "teal" for example in examples["val2014"]}
    assert vqav2.score(questions, annotations, answers)["per_answer_type"] == {"other": 100.0, "yes/no": 0.0}


def test_shards_and_determinism(easy, pictures, tmp_path):
    for name in ("a", "b"):
        easy.prepare(tmp_path / name, *pictures, val_fraction=0.1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    shards = sorted(path.name for path in (tmp_path / "a" / "captions").iterdir())
    assert shards == ["minival-000000.tar", "train-000000.tar", "val-000000.tar"]
    with tarfile.open(tmp_path / "a" / "captions" / "val-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members)[:2] == ["000020000.png", "000020000.txt"]
    assert members["000020000.png"] == (tmp_path / "20000.png").read_bytes()
    assert [text.decode() for name, text in members.items() if name.endswith(".txt")] == [
        "the image shows a circle that is teal",
        "a teal circle",
        "a teal circle",
    ]


def test_refusals(easy, pictures, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.setattr(sys, "argv", ["prepare_easy_vqa.py", str(tmp_path / "full")])
    with pytest.raises(UserError, match="full exists and is not an empty folder"):
        prepare_easy_vqa.main()
    monkeypatch.setattr(sys, "argv", ["prepare_easy_vqa.py", str(tmp_path / "new"), "--val-fraction", "1.5"])
    with pytest.raises(UserError, match=r"--val-fraction 1\.5"):
        prepare_easy_vqa.main()
    monkeypatch.setattr(easy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install easy-vqa"):
        easy.load("train")
    # a failure half way leaves nothing behind
    train, test = pictures
    with pytest.raises(UserError, match="does not know"):
        easy.prepare(tmp_path / "new", train, [*test, easy.Picture(3, test[0].path, (("why?", "because"),))], 0.1)
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))


def test_what_a_kill_left_goes_and_what_another_run_writes_stays(easy, pictures, tmp_path):
    for name in ("killed", "working"):
        (tmp_path / f".out[1].partial-{name}").mkdir()
    handle = os.open(tmp_path / ".out[1].partial-working", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    easy.prepare(tmp_path / "out[1]", *pictures, val_fraction=0.1)
    os.close(handle)
    assert sorted(path.name for path in tmp_path.glob("*out*")) == [".out[1].partial-working", "out[1]"]


def test_the_current_folder_is_made_too(easy, pictures, tmp_path, monkeypatch, capsys):
    splits = dict(zip(("train", "test"), pictures))
    monkeypatch.setattr(easy, "load", splits.get)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["prepare_easy_vqa.py", "."])
    prepare_easy_vqa.main()
    assert (tmp_path / "here/vqav2/v2_mscoco_val2014_annotations.json").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {tmp_path / 'here'}"


def test_a_mount_point_is_refused_before_the_work(easy, pictures, monkeypatch):
    monkeypatch.setattr(easy, "write_split", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UserError, match="/ is a mount point, which cannot be replaced: name a new folder in it"):
        easy.prepare(Path("/"), *pictures, val_fraction=0.1)


@pytest.mark.parametrize("fraction", [0.98, 0.9999, 1.0])
def test_a_fraction_that_leaves_no_picture_to_train_on_is_refused(easy, pictures, tmp_path, fraction):
    words = rf"--val-fraction {fraction}: 20 of the 20 train images would go to minival2014, none is left to train on"
    with pytest.raises(UserError, match=words):
        easy.prepare(tmp_path / "new", *pictures, val_fraction=fraction)
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize("fraction, held", [(1e-9, 1), (0.5, 10), (0.97, 19)])
def test_both_parts_of_the_train_split_have_a_picture(easy, fraction, held):
    places = easy.held_out_places(20, fraction)
    assert len(places) == held and places < set(range(20))


@pytest.mark.parametrize("fraction", ["0", "-0.1", "nan", "1.5"])
def test_a_fraction_out_of_bounds_is_refused(tmp_path, monkeypatch, fraction):
    monkeypatch.setattr(sys, "argv", ["prepare_easy_vqa.py", str(tmp_path / "new"), f"--val-fraction={fraction}"])
    with pytest.raises(UserError, match=rf"--val-fraction {float(fraction)}: give a number above 0, 1 at most"):
        prepare_easy_vqa.main()


def test_the_whole_package(easy):
    """The counts are those of its README, and captions can say every question without a contradiction."""
    for split, images, questions, both in (("train", 4000, 38575, 3542), ("test", 1000, 9673, 880)):
        pictures = easy.load(split)
        assert (len(pictures), sum(len(picture.pairs) for picture in pictures)) == (images, questions)
        said = [set(easy.facts(picture)) for picture in pictures]
        assert not any((word, False) in facts for facts in said for word, true in facts if true)
        shape, color = ({(word, True) for word in words} for words in (easy.SHAPES, easy.COLORS))
        assert {len(facts & known) for facts in said for known in (shape, color)} == {0, 1}
        assert sum(bool(facts & shape) and bool(facts & color) for facts in said) == both
        for picture, facts in zip(pictures, said):
            named = {
                word for word in easy.caption(picture).replace(",", "").split() if word in easy.SHAPES + easy.COLORS
            }
            true = {word for word, is_true in facts if is_true}
            assert named == (true or {word for word, _ in facts})
