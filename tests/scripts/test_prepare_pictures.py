"""scripts/prepare_pictures.py on tiny packages of the real layouts: names, splits, questions, files."""

import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import prepare_pictures
import pytest
from pictures.asking import Things, caption, pope_lines, questions, wrong
from pictures.licences import LICENCES, readme
from pictures.sources import VARIANT, VENDORS, Picture, _kind, clip_art, emoji, one, stamps
from pictures.splits import split
from pictures.writing import write
from PIL import Image

from bridge.data import official
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, write_json

EMOJI = {  # hexcode -> label, subgroup, tags
    "1F436": ("dog face", 34, ["pet"]),
    "1F43A": ("wolf", 34, []),
    "1F34E": ("red apple", 42, ["fruit"]),
    "1F1EB-1F1F7": ("flag: France", 97, []),
    "2764-FE0F": ("red heart", 14, []),
    "1F3C3-200D-2642-FE0F": ("man running", 27, []),
    "1F3C3-200D-2640-FE0F": ("woman running", 27, []),
}
SUBGROUPS = {"34": "animal-mammal", "42": "food-fruit", "97": "country-flag", "14": "heart", "27": "person-activity"}
GROUPS = {"0": "smileys-emotion", "1": "people-body", "3": "animals-nature", "4": "food-drink", "9": "flags"}
GROUP_OF = {34: 3, 42: 4, 97: 9, 14: 0, 27: 1}


def png(colour: str, size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size // 2), colour).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def packages(tmp_path) -> Path:
    root = tmp_path / "npm"
    for name in ("emojibase-data", "emoji-datasource-twitter", "emoji-datasource-google", "@lobehub/fluent-emoji-3d"):
        write_json(root / name.replace("/", "-") / "package/package.json", {"name": name})
    records = [
        {"hexcode": code, "label": label, "subgroup": kind, "group": GROUP_OF[kind], "tags": tags}
        for code, (label, kind, tags) in EMOJI.items()
    ]
    write_json(root / "emojibase-data/package/en/data.json", [*records, {"hexcode": "1F1E6", "label": "letter"}])
    write_json(root / "emojibase-data/package/meta/groups.json", {"subgroups": SUBGROUPS, "groups": GROUPS})
    places = ("emoji-datasource-twitter/package/img/twitter/64", "emoji-datasource-google/package/img/google/64")
    for red, place in enumerate((*places, "@lobehub-fluent-emoji-3d/package/assets"), start=100):
        (root / place).mkdir(parents=True)
        for green, code in enumerate(EMOJI):
            # Some packages write the variation selector, and some do not.
            name = code.lower() if "twitter" in place else code.lower().replace("-fe0f", "")
            (root / place / f"{name}.png").write_bytes(png(f"rgb({red}, {green}, 0)"))  # no two have the same pixels
    return root


def test_emoji_have_a_name_a_kind_and_a_family(packages):
    found = emoji(packages)
    assert len(found) == 3 * 7 and [picture.maker for picture in found[::7]] == ["twitter", "google", "fluent"]
    assert [(each.name, each.kind, each.group) for each in found[:5]] == [
        ("dog face", "mammal", "animal or plant"), ("wolf", "mammal", "animal or plant"),
        ("red apple", "fruit", "food or drink"), ("flag of france", "country flag", "flag"),
        ("red heart", "heart", "smiley or feeling"),
    ]  # fmt: skip
    assert found[5].family == found[6].family == "running"
    assert VARIANT.sub("", "woman running facing right").split() == ["running"]
    with pytest.raises(UserError, match="does not hold the npm package emojibase-data"):
        emoji(packages / "emoji-datasource-twitter")


@pytest.mark.parametrize(
    ("titles", "thing"),
    [
        (("birds", "00_birds", "bird"), "bird"), (("big cats",), "big cat"), (("hobbies",), "hobby"),
        (("dishes",), "dish"), (("boxes",), "box"), (("brass",), "brass"), (("electronics",), "electronics"),
        (("clothes",), "clothing"), (("people",), "person"), (("hand-fingers-open",), "open hand"),
    ],
)  # fmt: skip
def test_one_thing_of_a_folder(titles, thing):
    assert {one(title) for title in titles} == {thing}


def test_kinds_of_emoji():
    named = {
        "animal-bird": "bird", "animal-marine": "marine animal", "transport-air": "air vehicle", "plant-other": "plant",
        "face-smiling": "smiling face", "cat-face": "cat face", "hands": "hand", "other-object": "object",
    }  # fmt: skip
    assert {subgroup: _kind(subgroup) for subgroup in named} == named


def test_clip_art_in_the_public_domain_with_a_title_and_stamps_with_a_sentence(tmp_path):
    root = tmp_path / "usr/share"
    work = '<svg xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://web.resource.org/cc/"><dc:title>{}</dc:title>'
    work += '<dc:subject><li>bird</li></dc:subject><cc:license resource="http://web.resource.org/cc/{}"/></svg>'
    titles = {"a": "A big_Swan 2", "b": "A heron", "c": "path1234", **{f"s{n}": "a series" for n in range(6)}}
    for name, title in titles.items():
        for kind, content in (("svg", work.format(title, "ByNc" if name == "b" else "PublicDomain")), ("png", "")):
            path = root / f"openclipart/{kind}/animals/birds/{name}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    assert [(each.name, each.kind, each.group, each.words) for each in clip_art(tmp_path)] == [
        ("a big swan", "bird", "animal", ("bird",))
    ]
    place = root / "tuxpaint/stamps/food/fruit"
    place.mkdir(parents=True)
    (place / "apricot.txt").write_text("An apricot.\nfr.utf8=Un abricot.\n")
    (place / "apricot.png").write_bytes(png("red"))
    (place / "other.txt").write_text("Without a picture.\n")
    assert [(each.name, each.kind, each.family) for each in stamps(tmp_path)] == [("an apricot", "fruit", "apricot")]


def picture(name: str, kind: str, group: str, *words: str, maker: str = "m") -> Picture:
    return Picture(Path("x"), name, kind, group, words, name, maker)


def test_splits_part_names_and_makers_and_depend_on_the_name_alone():
    names = [f"thing {number}" for number in range(1000)]
    pictures = [picture(name, "k", "g", maker=maker) for maker in ("seen", "unseen") for name in names]
    found = split(pictures, "unseen")
    sizes = {name: len(members) for name, members in found.items()}
    assert sizes == {"train": 852, "val": 35, "names": 113, "vendor": 852, "both": 113}
    assert {each.name for each in found["train"]} == {each.name for each in found["vendor"]}
    assert not {each.name for each in found["both"]} & {each.name for each in found["train"]}
    assert [each.name for each in split(pictures[:50], "unseen")["names"]] == [
        each.name for each in found["names"] if int(each.name.split()[1]) < 50
    ]


def test_the_first_pictures_of_a_split_are_a_fair_sample():
    listed_by_kind = [picture(f"thing {number}", "smiley" if number < 250 else "flag", "g") for number in range(1000)]
    first = split(listed_by_kind, "unseen")["train"][:200]
    assert sum(each.kind == "smiley" for each in first) == 51  # of 50 that are to be expected
    assert split(listed_by_kind[::-1], "unseen")["train"][:200] == first


def test_questions_of_a_picture_and_a_no_that_shares_no_word():
    dog = picture("dog face", "mammal", "animal", "pet")
    wolf, parrot = picture("wolf", "mammal", "animal"), picture("parrot", "bird", "animal")
    apple = picture("apple", "fruit", "food")
    things = Things([dog, wolf, parrot, picture("pet dog", "mammal", "animal"), apple, apple])
    for mode, seen in (("adversarial", {"wolf"}), ("popular", {"apple"}), ("random", {"apple", "parrot", "wolf"})):
        assert {wrong(dog, things, 0, mode, random.Random(seed)) for seed in range(40)} == seen
    once = Things([dog, wolf, parrot, apple])  # no name more often than another: not the first of the alphabet for all
    popular = {wrong(dog, once, 0, "popular", random.Random(seed)) for seed in range(40)}
    assert popular == {"apple", "parrot", "wolf"}
    king, tea = picture("king of hearts", "card", "game"), picture("cup of tea", "drink", "food")
    assert wrong(king, Things([king, tea]), 0, "popular", random.Random(0)) == "cup of tea"  # "of" may be shared
    assert wrong(dog, Things([dog, picture("pet dog", "mammal", "animal")]), 0, "popular", random.Random(0)) is None
    asked = dict(questions(dog, things, "7"))
    assert [answer for _, answer in questions(dog, things, "7")] == ["dog face", "mammal", *("yes", "no") * 3]
    assert asked["Is it a dog face?"] == "yes" and asked["Is it a wolf?"] == "no" and asked["Is it a mammal?"] == "yes"
    assert pope_lines([("i.png", dog)], things, "adversarial") == [
        {"question_id": 1, "image": "i.png", "text": "Is there a dog face in the image?", "label": "yes"},
        {"question_id": 2, "image": "i.png", "text": "Is there a wolf in the image?", "label": "no"},
        {"question_id": 3, "image": "i.png", "text": "Is there a mammal in the image?", "label": "yes"},
        {"question_id": 4, "image": "i.png", "text": "Is there a bird in the image?", "label": "no"},
        {"question_id": 5, "image": "i.png", "text": "Is there an animal in the image?", "label": "yes"},
        {"question_id": 6, "image": "i.png", "text": "Is there a food in the image?", "label": "no"},
    ]
    captions = {caption(dog, str(key)) for key in range(60)}
    assert {"dog face", "a picture of dog face", "dog face, pet"} <= captions


def test_the_files_are_those_of_vqav2_and_pope(packages, tmp_path, monkeypatch, capsys):
    google = packages / "emoji-datasource-google/package/img/google/64"
    (google / "1f43a.png").write_bytes(b"no picture")
    (google / "1f34e.png").unlink()
    (google / "1f34e.png").mkdir()  # cannot be read, whoever tries
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / ".out.partial-killed").mkdir()
    monkeypatch.chdir(out)
    monkeypatch.setattr("sys.argv", ["prepare_pictures.py", ".", "--emoji", str(packages), "--size", "16"])
    prepare_pictures.main()
    assert not list(tmp_path.glob(".out*"))
    counts = read_json(out / "pictures.json")["splits"]
    assert sum(count["pictures"] for count in counts.values()) == 19
    refused = {Path(line["file"]).name: line["reason"] for line in read_jsonl(out / "refused.jsonl")}
    assert refused["1f43a.png"].startswith("not an image: ") and len(refused) == 2
    assert refused["1f34e.png"] == "cannot be read: Is a directory"
    about = (out / "README.md").read_text()
    assert [line for line in about.splitlines() if line.startswith("| ")] == [
        "| from | licence |",
        "| --- | --- |",
        "| Twitter's emoji (npm: emoji-datasource-twitter) | CC-BY 4.0 |",
        "| Google's emoji (npm: emoji-datasource-google) | Apache-2.0 |",
        "| Microsoft's emoji, Fluent 3D (npm: @lobehub/fluent-emoji-3d) | MIT |",
        "| the emoji's names (npm: emojibase-data) | MIT |",
    ]
    assert "16 x 16 pixels" in about and "to name Twitter, Inc and other contributors, the licence" in about
    told = read_json(out / "vqav2/v2_mscoco_train2014_annotations.json")["license"]["name"]
    assert told == "see ../README.md" and (out / "vqav2" / told.removeprefix("see ")).is_file()
    examples = official.vqav2(out / "vqav2", "train2014")
    assert len(examples) == counts["train"]["questions"] and all(Path(each.image).is_file() for each in examples)
    with Image.open(examples[0].image) as image:
        assert image.size == (16, 16) and image.getpixel((0, 0)) == (255, 255, 255)  # on a white square
    assert len(official.pope(out / "pope", "popular")) > 0
    with tarfile.open(next((out / "captions").glob("train-twitter-*.tar"))) as tar:
        assert {Path(name).suffix for name in tar.getnames()} == {".png", ".txt"}
    assert json.loads((out / "pope/coco_pope_random.json").read_text().splitlines()[0])["question_id"] == 1
    assert f"written to {out};" in capsys.readouterr().out
    monkeypatch.chdir(out)  # the folder of that name is another one now
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        prepare_pictures.main()


def test_the_same_pixels_are_taken_once_and_first_for_training_and_a_blank_is_refused(tmp_path):
    def picture(name: str, colour: str) -> Picture:
        path = tmp_path / f"{name}.png"
        path.write_bytes(png(colour))
        return Picture(path, name, "flag", "flag", (), name, "google")

    spain, ceuta, snow = picture("spain", "red"), picture("ceuta", "red"), picture("snow", "white")
    twice = [spain, replace(spain, name="the spanish flag")]  # two names of one file
    counts = write(tmp_path / "out", {"train": [ceuta, picture("norway", "blue")], "names": [*twice, snow]}, size=16)
    assert counts["train"] | {"questions": 0} == {"pictures": 2, "questions": 0, "pope": 0, "refused": 0}
    assert counts["names"] == {"pictures": 0, "questions": 0, "pope": 0, "refused": 3}
    same = f"the same pixels as {ceuta.path}, taken already"
    assert [(line["file"], line["reason"]) for line in read_jsonl(tmp_path / "out/refused.jsonl")] == [
        (str(spain.path), same),
        (str(spain.path), same),
        (str(snow.path), "shows nothing: it is empty, or white on white"),
    ]
    assert read_json(tmp_path / "out/pictures.json")["makers"] == {"google": 2}


def test_licences_are_of_what_was_used():
    about = readme({"tuxpaint", "openclipart"}, 64)
    assert "GPL-2" in about and "public domain" in about
    assert "emoji" not in about and "CC-BY" not in about and "MIT" not in about
    assert set(LICENCES) == {*VENDORS, "openclipart", "tuxpaint"}  # every maker of pictures.sources


def test_packages_that_are_broken_or_of_another_version(packages, tmp_path, monkeypatch):
    broken = packages / "resolve/test/package.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")  # as real packages hold to test with
    (packages / "list").mkdir()
    (packages / "list/package.json").write_text("[]")
    assert len(emoji(packages)) == 3 * len(EMOJI)
    pictures = packages / "emoji-datasource-google/package/img/google/64"
    pictures.rename(pictures.with_name("72"))
    with pytest.raises(UserError, match="google/64 is no folder of pictures: get the version that --help names"):
        emoji(packages)
    (packages / "emojibase-data/package/en/data.json").unlink()
    with pytest.raises(UserError, match=r"en/data\.json cannot be read .*: get the version that --help names"):
        emoji(packages)
    stamps_folder = tmp_path / "debian/usr/share/tuxpaint/stamps"
    stamps_folder.mkdir(parents=True)
    arguments = ["prepare_pictures.py", str(tmp_path / "out"), "--tuxpaint", str(tmp_path / "debian")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(UserError, match="the folders hold no picture with a name"):
        prepare_pictures.main()
