"""Conversations as people have them: placeholders, several images, none, and the hub's parquet."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from tiny import pictures
from tiny.official import write_lines

from bridge.data.conversation_files import conversation_files
from bridge.data.conversations import read_conversations
from bridge.data.example import Dialogue
from bridge.data.pictures import TableImage, open_picture
from vlm.errors import UserError
from vlm.files import write_json


def turns(*said: str) -> list[dict]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(said)]


def read(root, *records: dict) -> tuple[list[Dialogue], list[str]]:
    """The conversations of a LLaVA file, and why others cannot be used."""
    for name in ("1.jpg", "2.jpg"):
        pictures.save(pictures.noise(8, 8), root / "img" / name)
    write_json(root / "x.json", list(records))
    bad: list[str] = []
    found = read_conversations(
        str(root / "x.json"), str(root / "img"), lambda key, file, index, why: bad.append(f"record {index}: {why}")
    )
    return found, bad


def test_placeholders_keep_their_places_and_texts_their_letters(tmp_path):
    short = "<image>\nIs it red?\nAnswer the question using a single word or phrase."
    system = {"from": "system", "value": "Be kind."}
    found, bad = read(
        tmp_path,
        {"image": "1.jpg", "conversations": turns(short, "Yes", "Why?", "Paint.")},
        {"images": ["1.jpg", "2.jpg"], "conversations": turns("<image>\n<image>\nWhat changed?", "The cat.")},
        {"image": "1.jpg", "conversations": turns("Hello", "Hi", "<image>\nWhat is this?", "A cat")},
        {"image": ["2.jpg"], "conversations": turns("Compare <image> with this text: blue", "No.")},
        {"images": ["1.jpg", "2.jpg"], "conversations": [system, *turns("Which is older?", "The first.")]},
        {"image": "1.jpg", "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    )
    one, two = tmp_path / "img/1.jpg", tmp_path / "img/2.jpg"
    assert bad == []
    assert found == [
        Dialogue("0", (one,), ((short, "Yes"), ("Why?", "Paint."))),
        Dialogue("1", (one, two), (("<image>\n<image>\nWhat changed?", "The cat."),)),
        Dialogue("2", (one,), (("Hello", "Hi"), ("<image>\nWhat is this?", "A cat"))),
        Dialogue("3", (two,), (("Compare <image> with this text: blue", "No."),)),
        Dialogue("4", (one, two), (("<image><image>\nWhich is older?", "The first."),), "Be kind."),
        Dialogue("5", (one,), (("<image>\nQ", "A"),)),
    ]


def test_an_image_that_is_named_in_two_fields_is_there_once(tmp_path):
    one, two = tmp_path / "img/1.jpg", tmp_path / "img/2.jpg"
    found, bad = read(
        tmp_path,
        {"images": ["1.jpg"], "image": "1.jpg", "conversations": turns("<image>\nQ", "A")},
        {"images": ["1.jpg", "2.jpg"], "image": "./1.jpg", "conversations": turns("Q", "A")},
        {"images": ["1.jpg"], "image": "2.jpg", "conversations": turns("Q", "A")},
        {"images": ["1.jpg", "1.jpg"], "conversations": turns("Q", "A")},
    )
    assert bad == []
    assert [dialogue.images for dialogue in found] == [(one,), (one, two), (one, two), (one, one)]


def test_each_conversation_of_several_files_has_an_id_of_its_own(tmp_path):
    def ids(*names: str) -> list[str]:
        root = tmp_path / "-".join(name.replace("/", ".") for name in names)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_json(root / name, [{"conversations": turns("Hi", "Hello")}, {"conversations": turns("Hi", "Ho")}])
        return [dialogue.question_id for dialogue in read_conversations(str(root))]

    assert ids("a/x.json") == ["0", "1"]
    assert ids("a/x.json", "b/y.json") == ["x:0", "x:1", "y:0", "y:1"]
    assert ids("a/x.json", "b/x.json") == ["a/x.json:0", "a/x.json:1", "b/x.json:0", "b/x.json:1"]
    assert ids("x.json", "x.jsonl") == ["x.json:0", "x.json:1", "x.jsonl:0", "x.jsonl:1"]


@pytest.mark.parametrize("without", [{}, {"image": ""}, {"image": None}, {"image": []}, {"images": []}])
def test_a_record_without_an_image_is_text(tmp_path, without):
    found, bad = read(tmp_path, {**without, "conversations": turns("Hi", "Hello")})
    assert (found, bad) == ([Dialogue("0", (), (("Hi", "Hello"),))], [])


def test_bad_records_are_told_with_what_they_have(tmp_path):
    good = {"image": "1.jpg", "conversations": turns("<image>\nQ", "A")}
    found, bad = read(
        tmp_path,
        good,
        {"image": "1.jpg", "conversations": turns("<image>\n<image>\nQ", "A")},
        {"conversations": turns("<image>\nQ", "A")},
        {"video": "x.mp4", "conversations": turns("<video>\nQ", "A")},
        {"image": "9.jpg", "conversations": turns("<image>\nQ", "A")},
        {"image": "../1.jpg", "conversations": turns("<image>\nQ", "A")},
        {"image": 7, "conversations": turns("<image>\nQ", "A")},
        {"image": "1.jpg", "conversations": turns("<image>\nQ")},
        {"image": "1.jpg", "conversations": turns("<image>\nQ", " ")},
        {"image": "1.jpg", "conversations": [{"from": "bot", "value": "x"}]},
        {"image": "1.jpg", "text": "x"},
    )
    assert [dialogue.question_id for dialogue in found] == ["0"]
    assert bad == [
        "record 1: its questions say <image> 2 times, and it has 1 images",
        "record 2: its questions say <image> 1 times, and it has 0 images",
        "record 3: it is about a video, which cannot be trained on",
        f"record 4: its image {tmp_path}/img/9.jpg is missing",
        f"record 5: image name '../1.jpg' leads out of {tmp_path}/img: names must lie inside the image folder",
        "record 6: an image is named by '7', not by a text",
        "record 7: its turns must alternate user, assistant, but are user",
        "record 8: a turn's 'value' is empty",
        "record 9: a turn is from 'bot': known are human, user, gpt, assistant, system",
        "record 10: it has no list of conversations, messages or texts, but the fields image, text",
    ]
    with pytest.raises(UserError, match=r"x\.json, record 1: its questions say <image> 2 times, and it has 1 images"):
        read_conversations(str(tmp_path / "x.json"), str(tmp_path / "img"))


def test_links_are_followed_in_a_folder_that_is_given_and_to_images_alone(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").mkdir()
    pictures.noise(20, 20).save(tmp_path / "disk/1.jpg")
    (tmp_path / "disk/2.jpg").symlink_to("/etc/passwd")
    (tmp_path / "set/coco").symlink_to(tmp_path / "disk")
    talks = [{"image": f"coco/{number}.jpg", "conversations": turns("<image>\nQ", "A")} for number in (1, 2)]
    write_json(tmp_path / "set/x.json", talks)
    file, bad = str(tmp_path / "set/x.json"), []
    found = read_conversations(file, str(tmp_path / "set"), lambda key, file, index, why: bad.append(str(why)))
    assert [dialogue.images for dialogue in found] == [(tmp_path / "set/coco/1.jpg",)]
    assert len(bad) == 1 and bad[0].startswith(f"image name 'coco/2.jpg' leads out of {tmp_path}/set by a link: ")
    with pytest.raises(UserError, match=r"record 0: .*/set/coco leads out of .*/set by a link"):
        read_conversations(file)


def test_json_lines_are_the_same_conversations(tmp_path):
    records = [{"image": "1.jpg", "conversations": turns("<image>\nQ", "A")}, {"conversations": turns("Hi", "Hello")}]
    found, _ = read(tmp_path, *records)
    write_lines(tmp_path / "lines/x.jsonl", records)
    assert read_conversations(str(tmp_path / "lines/x.jsonl"), str(tmp_path / "img")) == found
    assert read_conversations(str(tmp_path / "lines"), str(tmp_path / "img")) == found
    (tmp_path / "beside.jsonl").write_text("\n".join(map(json.dumps, records)))
    pictures.save(pictures.noise(8, 8), tmp_path / "1.jpg")
    assert read_conversations(str(tmp_path / "beside.jsonl"))[0].images == (tmp_path / "1.jpg",)


def write_table(file, rows: list[dict]) -> None:
    """As the_cauldron and FineVision: images [{bytes, path}], texts [{user, assistant, source}], small row groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    text = pyarrow.struct([(name, pyarrow.string()) for name in ("user", "assistant", "source")])
    schema = pyarrow.schema([("images", pyarrow.list_(image)), ("texts", pyarrow.list_(text))])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file, row_group_size=2)


def said(*texts: str) -> list[dict]:
    return [{"user": q, "assistant": a, "source": "x"} for q, a in zip(texts[0::2], texts[1::2])]


def test_parquet_of_the_hub(tmp_path):
    image = [{"bytes": (tmp_path / f"{seed}.png").read_bytes(), "path": None} for seed in save_noise(tmp_path)]
    file = tmp_path / "ai2d/train-00000-of-00001.parquet"
    write_table(
        file,
        [
            {"images": image[:1], "texts": said("Is it red?", "Yes.", "Why?", "Paint.")},
            {"images": image[1:], "texts": said("What changed?", "The cat.")},
            {"images": [], "texts": said("Hi", "Hello")},
        ],
    )
    write_table(tmp_path / "ai2d/test-00000-of-00001.parquet", [])
    found = read_conversations(str(tmp_path / "ai2d"))
    places = [
        TableImage(file, row, f"{file.stem}:{row}:{item}", "images", item) for row, item in ((0, 0), (1, 0), (1, 1))
    ]
    assert found == [
        Dialogue("0", (places[0],), (("<image>\nIs it red?", "Yes."), ("Why?", "Paint."))),
        Dialogue("1", (places[1], places[2]), (("<image><image>\nWhat changed?", "The cat."),)),
        Dialogue("2", (), (("Hi", "Hello"),)),
    ]
    for seed, place in enumerate(places):
        assert open_picture(place).tobytes() == pictures.noise(8, 8, seed=seed).tobytes()
    assert read_conversations(str(tmp_path / "ai2d/train-*.parquet")) == found


def save_noise(root) -> range:
    for seed in range(3):
        pictures.noise(8, 8, seed=seed).save(root / f"{seed}.png")
    return range(3)


def test_what_is_not_there_is_named(tmp_path):
    for source in (str(tmp_path / "none.json"), "no_such_folder"):
        with pytest.raises(UserError, match="does not exist: give a file, a folder, a glob or a hub id"):
            conversation_files(source)
    with pytest.raises(UserError, match=r"has no \.json, \.jsonl or \.parquet files"):
        conversation_files(str(tmp_path))
    pyarrow.parquet.write_table(pyarrow.table({"question": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="needs a column texts or conversations, and has question"):
        read_conversations(str(tmp_path / "x.parquet"))


def test_what_is_no_record_is_one_bad_record(tmp_path):
    good = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    (tmp_path / "x.json").write_text(json.dumps([good, "text", None]))
    told: list[tuple] = []

    def report(key, file, index, bad):
        told.append((key, file, index, bad.kind, str(bad)))

    found = read_conversations(str(tmp_path / "x.json"), report=report)
    assert found == [Dialogue("0", (), (("Hi", "Hello"),))]
    reasons = [(1, "it is no object but 'text'"), (2, "it is no object but 'None'")]
    assert told == [(str(number), tmp_path / "x.json", number, "malformed record", why) for number, why in reasons]


def test_an_absolute_name_inside_the_image_folder_is_found(tmp_path):
    save_noise(tmp_path)
    said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    (tmp_path / "x.json").write_text(json.dumps([{"image": str(tmp_path / "1.png"), "conversations": said}]))
    assert read_conversations(str(tmp_path / "x.json"))[0].images == (tmp_path / "1.png",)


def test_files_that_are_left_out_are_named(tmp_path, capsys):
    for name in ("train_a.json", "extra.json"):
        (tmp_path / name).write_text("[]")
    assert [file.name for file in conversation_files(str(tmp_path))] == ["train_a.json"]
    assert capsys.readouterr().err == f"{tmp_path}: 1 of 2 files are taken; left out: extra.json\n"


def test_a_linked_folder_of_files_is_read(tmp_path):
    for name in ("here/a.json", "elsewhere/b.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("[]")
    (tmp_path / "here/more").symlink_to("../elsewhere")
    assert conversation_files(str(tmp_path / "here")) == [tmp_path / "here/a.json", tmp_path / "here/more/b.json"]
