"""scripts/prepare_data.py on a small world, as official files and as the hub's tables."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import prepare_data
import pytest
from checks.official import DATA_SETS
from checks.reading import Found, _reason, read_split
from tiny import hub

from vlm.errors import UserError


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
    prepare_data.main()


@pytest.fixture
def pope(world_root, tmp_path) -> Path:
    shutil.copytree(world_root / "pope", tmp_path / "pope")
    return tmp_path / "pope"


def test_the_world_can_be_used(monkeypatch, capsys, world_root, tmp_path):
    run(monkeypatch, "gqa", world_root / "gqa", "--check-images", "3", "--json", tmp_path / "report.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"GQA in {world_root / 'gqa'}"
    report = json.loads((tmp_path / "report.json").read_text())
    train = report["splits"][0]
    assert (train["split"], train["ready"], train["missing_images"], train["checked_images"]) == ("train", True, [], 3)
    assert train["official_questions"] == [943_000] and 1 <= train["images"] <= 20
    assert lines[2].split()[:3] == ["train", f"{train['questions']:,}", "943,000"]
    assert lines[2].endswith("ready (training)")
    assert "not the official counts; no error" in "\n".join(lines)
    assert lines[-1] == "GQA: can train on train; can evaluate on val, testdev"
    run(monkeypatch, "vqav2", world_root / "vqav2")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "VQAv2: can train on train2014; can evaluate on val2014, test-dev2015"
    )


def test_missing_and_unreadable_images(monkeypatch, capsys, pope):
    images = sorted((pope / "val2014").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:300])
    with pytest.raises(UserError, match=r"POPE in .* cannot be used yet \(random: 1 images missing;"):
        run(monkeypatch, "pope", pope, "--check-images", "all")
    printed = capsys.readouterr().out
    assert f"images: popular: 1 images missing, the first: {images[0]}" in printed
    assert f"images: random: 1 damaged image, the first: {images[1]}" in printed


def test_what_to_fetch_is_named(monkeypatch, capsys, world_root, tmp_path):
    folder = tmp_path / "gqa"
    (folder / "images").mkdir(parents=True)
    shutil.copy(world_root / "gqa/val_balanced_questions.json", folder)
    for image in (world_root / "gqa/images").iterdir():
        shutil.copy(image, folder / "images")
    run(monkeypatch, "gqa", folder)
    lines = capsys.readouterr().out.splitlines()
    url = "https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip"
    assert f"fetch: {url} (1.4 GB) for train_balanced_questions.json, testdev_balanced_questions.json" in lines
    assert lines[-1] == "GQA: can evaluate on val"
    with pytest.raises(UserError, match="train: 1 of its 2 parts missing"):
        run(monkeypatch, "gqa", folder, "--splits", "train", "val")
    with pytest.raises(UserError, match="GQA has no split 'tset'; it has train, val, testdev"):
        run(monkeypatch, "gqa", folder, "--splits", "tset")
    (folder / "val_balanced_questions.json").write_text("{")
    with pytest.raises(UserError, match=r"val: .*val_balanced_questions\.json is not valid JSON"):
        run(monkeypatch, "gqa", folder, "--splits", "val")


def found(name: str, folder: Path, split: str) -> Found:
    data = DATA_SETS[name]
    return read_split(data, folder, next(each for each in data.splits if each.name == split))


def test_folders_of_2017_and_chunks_do_as_well(world_root, tmp_path):
    """As the readers of the bridge take them; what nothing stands in for is still missed."""
    vqav2, gqa = tmp_path / "vqav2", tmp_path / "gqa"
    shutil.copytree(world_root / "vqav2", vqav2)
    for older, newer in (("train2014", "train2017"), ("val2014", "val2017"), ("test2015", "test2017")):
        (vqav2 / newer).mkdir()
        for image in (vqav2 / older).iterdir():
            image.rename(vqav2 / newer / image.name.rsplit("_", 1)[1])
        (vqav2 / older).rmdir()
    for split in ("train2014", "val2014", "test-dev2015"):
        part = found("vqav2", vqav2, split)
        assert (part.problem, part.absent, part.missing) == ("", [], []) and part.images, split
    shutil.rmtree(vqav2 / "test2017")
    assert [need.path for need in found("vqav2", vqav2, "test-dev2015").absent] == ["test2015"]
    shutil.copytree(world_root / "gqa", gqa)
    for split in ("train", "testdev"):
        chunks = gqa / f"{split}_balanced_questions"
        chunks.mkdir()
        (gqa / f"{split}_balanced_questions.json").rename(chunks / f"{split}_balanced_questions_0.json")
        assert found("gqa", gqa, split).as_json()["ready"], split


def test_the_hubs_tables_do_as_well(monkeypatch, capsys, world_root, tmp_path):
    gqa = hub.write_gqa(world_root / "gqa", tmp_path / "gqa", "testdev")
    run(monkeypatch, "gqa", gqa, "--check-images", "all")
    assert capsys.readouterr().out.splitlines()[-1] == "GQA: can evaluate on testdev"
    part, official = found("gqa", gqa, "testdev"), found("gqa", world_root / "gqa", "testdev")
    assert (part.questions, len(part.images)) == (official.questions, len(official.images))
    assert found("gqa", gqa, "train").problem.startswith(f"{gqa} has no tables train_balanced_instructions/")
    next(gqa.glob("testdev_balanced_images/*-00001-*")).unlink()
    assert found("gqa", gqa, "testdev").problem.startswith("1 of 2 tables are missing, the first: ")
    pope = hub.write_pope(world_root / "pope", tmp_path / "pope")
    run(monkeypatch, "pope", pope)
    assert capsys.readouterr().out.splitlines()[-1] == "POPE: can evaluate on random, popular, adversarial"


def test_a_damaged_image_in_a_table_is_named(monkeypatch, capsys, world_root, tmp_path):
    official = tmp_path / "official"
    shutil.copytree(world_root / "vqav2", official)
    damaged = min((official / "val2014").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:300])
    tables = hub.write_vqav2(official, tmp_path / "vqav2")
    with pytest.raises(UserError, match=r"val2014: 1 images cannot be read"):
        run(monkeypatch, "vqav2", tables, "--splits", "val2014", "--check-images", "all")
    table = tables / "data/validation-00000-of-00001.parquet"
    assert f"images: val2014: 1 damaged image, the first: {table}, row 0" in capsys.readouterr().out.splitlines()


def test_archives_of_2017_are_unpacked(monkeypatch, capsys, pope):
    names = sorted(image.name for image in (pope / "val2014").iterdir())
    with zipfile.ZipFile(pope / "val2017.zip", "w") as archive:
        for name in names:
            archive.write(pope / "val2014" / name, f"val2017/{name.rsplit('_', 1)[1]}")
    shutil.rmtree(pope / "val2014")
    with pytest.raises(UserError, match=r"POPE in .* cannot be used yet"):
        run(monkeypatch, "pope", pope)
    assert "unpack: val2017.zip for val2014: run again with --unzip" in capsys.readouterr().out.splitlines()
    run(monkeypatch, "pope", pope, "--unzip")
    assert f"{pope / 'val2017.zip'}: {len(names)} files unpacked" in capsys.readouterr().out


def test_links_that_lead_nowhere_and_folders_are_no_images(monkeypatch, capsys, pope, tmp_path):
    images = sorted((pope / "val2014").iterdir())
    images[0].unlink()
    images[0].symlink_to(tmp_path / "an unmounted disk" / images[0].name)
    images[1].unlink()
    images[1].mkdir()
    images[2].unlink()
    images[2].symlink_to(images[2].name)  # to itself
    images[3].rename(tmp_path / "elsewhere.jpg")
    images[3].symlink_to(tmp_path / "elsewhere.jpg")
    missing = found("pope", pope, "popular").missing
    assert sorted(missing) == images[:3]
    with pytest.raises(UserError, match="popular: 3 images missing"):
        run(monkeypatch, "pope", pope)
    said = [f"{path} (a link that leads nowhere)" if path.is_symlink() else str(path) for path in missing]
    assert f"images: popular: 3 images missing, the first: {', '.join(said)}" in capsys.readouterr().out.splitlines()


def test_a_reason_is_the_same_for_every_image(tmp_path):
    assert {_reason(tmp_path / name) for name in "ab"} == {"cannot read the image: No such file or directory"}


@pytest.mark.parametrize(
    ("name", "split", "file", "spoil", "problem"),
    [
        ("gqa", "val", "val_choices.json", lambda text: text[:-40], "val_choices.json is not valid JSON"),
        ("gqa", "val", "val_choices.json", lambda text: '{"1": {}}', "val_choices.json: the choices have no entry for"),
        ("gqa", "testdev", "testdev_balanced_questions.json", lambda text: text.replace('"types"', '"kinds"'),
         "testdev_balanced_questions.json: question"),
        ("vqav2", "val2014", "v2_mscoco_val2014_annotations.json", lambda text: text.replace("answer_type", "kind"),
         "v2_mscoco_val2014_annotations.json: annotation 1 has no 'answer_type'"),
    ],
    ids=["cut choices", "other choices", "no types", "no answer_type"],
)  # fmt: skip
def test_what_the_scorers_refuse_is_not_ready(world_root, tmp_path, name, split, file, spoil, problem):
    folder = tmp_path / name
    shutil.copytree(world_root / name, folder)
    (folder / file).write_text(spoil((folder / file).read_text()))
    assert found(name, folder, split).problem.startswith(f"{folder}/{problem}")
    train = "train" if name == "gqa" else "train2014"
    assert found(name, folder, train).problem == ""


def test_choices_in_chunks_are_read_as_well(world_root, tmp_path):
    folder = tmp_path / "gqa"
    shutil.copytree(world_root / "gqa", folder)
    chunk = folder / "val_choices/val_choices_0.json"
    chunk.parent.mkdir()
    (folder / "val_choices.json").rename(chunk)
    part = found("gqa", folder, "val")
    assert part.problem == "" and "val_choices.json" not in [need.path for need in part.absent]
    chunk.write_text('{"1": {}}')
    assert found("gqa", folder, "val").problem.startswith(f"{chunk.parent}: the choices have no entry for")


@pytest.mark.parametrize(("questions", "version"), [(2910, "August 2023"), (3000, "since autumn 2023")])
def test_popes_random_file_is_named(monkeypatch, capsys, pope, questions, version):
    line = json.loads((pope / "coco_pope_random.json").read_text().splitlines()[0])
    lines = [json.dumps({**line, "question_id": number}) for number in range(questions)]
    (pope / "coco_pope_random.json").write_text("\n".join(lines))
    run(monkeypatch, "pope", pope)
    assert f"note: random is POPE's file {'of ' if questions == 2910 else ''}{version} ({questions} questions)" in (
        capsys.readouterr().out
    )


def test_unzip_flag_makes_a_folder_usable(monkeypatch, capsys, pope):
    with zipfile.ZipFile(pope / "val2014.zip", "w") as archive:
        for image in sorted((pope / "val2014").iterdir()):
            archive.write(image, f"val2014/{image.name}")
    shutil.rmtree(pope / "val2014")
    with pytest.raises(UserError, match="random: 1 of its 2 parts missing"):
        run(monkeypatch, "pope", pope)
    assert "unpack: val2014.zip for val2014: run again with --unzip" in capsys.readouterr().out
    run(monkeypatch, "pope", pope, "--unzip")
    assert capsys.readouterr().out.splitlines()[-1] == "POPE: can evaluate on random, popular, adversarial"
