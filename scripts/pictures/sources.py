"""What the packages hold: pictures with a name, the kind of thing they show, and other words that are true of them."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.errors import UserError

# npm packages: the vendor -> where its pictures lie in the package.
VENDORS = {
    "twitter": ("emoji-datasource-twitter", "img/twitter/64"),
    "google": ("emoji-datasource-google", "img/google/64"),
    "fluent": ("fluent-emoji-3d", "assets"),
}
NAMES = "emojibase-data"
COMPONENTS = 2  # emojibase's group of skin tones and hair, which are no pictures of their own
# What names of one family differ in: "man running", "person running facing right".
VARIANT = re.compile(r"\b(man|woman|men|women|person|people|boy|girl|mr|mrs|mx|facing right)\b")
# What one thing of emojibase's groups is called, and of those of its subgroups that are called "animal-marine".
GROUPS = {
    "smileys-emotion": "smiley or feeling", "people-body": "person or body part", "animals-nature": "animal or plant",
    "food-drink": "food or drink", "travel-places": "vehicle or place",
}  # fmt: skip
WIDER = {"animal": "animal", "food": "food", "plant": "plant", "place": "place", "transport": "vehicle"}
ADJECTIVES = ("marine", "prepared", "asian", "sweet", "geographic", "religious", "ground", "water", "air")
# Plurals, or what looks like one, that no rule makes singular.
SINGULAR = {
    "arts crafts": "craft", "breads and carbs": "bread", "christmas": "christmas", "clothes": "clothing",
    "hand fingers closed": "closed hand", "hand fingers open": "open hand", "hand fingers partial": "hand sign",
    "meats and eggs": "meat or egg", "newyears": "new year", "people": "person", "smilies": "smiley",
    "signs and symbols": "sign or symbol", "stickmen": "stickman", "united states": "united states",
}  # fmt: skip
JUNK = re.compile(r"untitled|unnamed|drawing|layer|path|svg|inkscape|copyright|https?|[_\d]{3,}", re.IGNORECASE)
SERIES = 5  # pictures of one title
PUBLIC_DOMAIN = "publicdomain"
DUBLIN = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Picture:
    """One picture. name: what it shows. kind, group: what kind of thing that is, narrowly and widely.

    words: more that is true of it. family: pictures that must not be parted between training and held-out names. maker:
    the vendor of an emoji, otherwise the collection.
    """

    path: Path
    name: str
    kind: str
    group: str
    words: tuple[str, ...]
    family: str
    maker: str


def emoji(folder: Path) -> list[Picture]:
    """The emoji of every vendor whose package is below `folder`, without skin tones.

    Raises: UserError if the names or a vendor are missing.
    """
    names = _package(folder, NAMES)
    vendors = {vendor: _package(folder, package) / place for vendor, (package, place) in VENDORS.items()}
    records, titles = _json(names / "en/data.json"), _json(names / "meta/groups.json")
    for place in vendors.values():
        if not place.is_dir():
            raise UserError(f"{place} is no folder of pictures: get the version that --help names")
    found = []
    for vendor, place in vendors.items():
        files = {_code(path.stem): path for path in sorted(place.iterdir())}
        for record in records:
            if record.get("group", COMPONENTS) == COMPONENTS or _code(record["hexcode"]) not in files:
                continue
            name, subgroup = _emoji_name(record["label"]), titles["subgroups"][str(record["subgroup"])]
            title = titles["groups"][str(record["group"])]
            group = GROUPS.get(title, one(title))
            family = " ".join(VARIANT.sub("", name).split()) or name
            path, words = files[_code(record["hexcode"])], tuple(record.get("tags", ()))
            found.append(Picture(path, name, _kind(subgroup), group, words, family, vendor))
    return found


def _package(folder: Path, name: str) -> Path:
    """The unpacked npm package, wherever below `folder` it lies."""
    for file in sorted(folder.rglob("package.json")):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # packages may hold broken ones of others, to test with
            continue
        if isinstance(about, dict) and str(about.get("name", "")).split("/")[-1] == name:
            return file.parent
    raise UserError(f"{folder} does not hold the npm package {name}: see scripts/prepare_pictures.py --help")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): get the version that --help names") from None


def _code(hexcode: str) -> str:
    """The code points of an emoji without the variation selector, which packages write or leave out."""
    return hexcode.lower().replace("-fe0f", "")


def _emoji_name(label: str) -> str:
    """ "flag: France" -> "flag of France", "person walking: facing right" -> "person walking facing right"."""
    label = re.sub(r"^flag: ", "flag of ", label)
    return label.replace(":", "").lower()


def _kind(subgroup: str) -> str:
    """ "animal-bird" -> "bird", "animal-marine" -> "marine animal", "face-smiling" -> "smiling face"."""
    whole, _, part = subgroup.partition("-")
    if whole == "face" and part:
        return part.replace("-", " ") + " face"
    if whole in WIDER and part in ADJECTIVES:
        return f"{part} {WIDER[whole]}"
    if whole in WIDER and part:
        return WIDER[whole] if part == "other" else part
    return one(subgroup.removeprefix("other-"))


def one(title: str) -> str:
    """What one thing of a folder or group is called: "00_symbols" -> "symbol", "body-parts" -> "body part"."""
    words = re.sub(r"[_\W\d]+", " ", title).lower().strip()
    if words in SINGULAR:
        return SINGULAR[words]
    if words.endswith("ies"):
        return words[:-3] + "y"
    if words.endswith(("ches", "shes", "sses", "xes")):
        return words[:-2]
    if words.endswith("s") and not words.endswith(("ss", "us", "is", "cs")):
        return words[:-1]
    return words


def clip_art(folder: Path) -> list[Picture]:
    """Open Clip Art of Debian's openclipart-png and -svg: pictures of the one, titles and keywords of the other.

    Only what its own file gives to the public domain, and has a title in words that few others have.
    Raises: UserError if one of the two is missing.
    """
    pictures, drawings = (_below(folder, f"openclipart/{kind}") for kind in ("png", "svg"))
    found = []
    for drawing in sorted(drawings.rglob("*.svg")):
        place = drawing.relative_to(drawings)
        path = (pictures / place).with_suffix(".png")
        about = _about(drawing) if path.is_file() else None
        if about is None:
            continue
        title, words = about
        name = " ".join(re.sub(r"[_\W\d]+", " ", title).split()).lower()
        if JUNK.search(title) or not re.search(r"[a-z]{3}", name) or len(name.split()) > 8:
            continue
        kind, group = one(place.parent.name), one(place.parts[0])
        found.append(Picture(path, name, kind, group, words, name, "openclipart"))
    titles = Counter(picture.name for picture in found)  # the title of a whole series says nothing of one picture
    return [picture for picture in found if titles[picture.name] <= SERIES]


def _about(drawing: Path) -> tuple[str, tuple[str, ...]] | None:
    """Title and keywords of a drawing; None if it says none, or is not in the public domain."""
    try:
        root = ElementTree.parse(drawing).getroot()
    except (ElementTree.ParseError, ValueError, LookupError):  # the latter two: an encoding that Python lacks
        return None
    licences = [str(value) for node in root.iter() for value in node.attrib.values() if node.tag.endswith("icense")]
    if not any(PUBLIC_DOMAIN in licence.lower() for licence in licences):
        return None
    title = next((node.text for node in root.iter(f"{DUBLIN}title") if node.text and node.text.strip()), None)
    bags = [node for subject in root.iter(f"{DUBLIN}subject") for node in subject.iter()]
    words = tuple(node.text.strip().lower() for node in bags if node.text and node.text.strip())
    return (title.strip(), words) if title else None


def stamps(folder: Path) -> list[Picture]:
    """Tux Paint's stamps: cut-outs, half of them photographs, each with a sentence.

    Raises: UserError if they are missing.
    """
    place = _below(folder, "tuxpaint/stamps")
    found = []
    for text in sorted(place.rglob("*.txt")):
        path = text.with_suffix(".png")
        sentence = text.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
        if path.is_file() and sentence and sentence[0].strip():
            name = sentence[0].strip().rstrip(".!").lower()
            parts = text.relative_to(place).parts
            found.append(Picture(path, name, one(parts[-2]), one(parts[0]), (), plain(name), "tuxpaint"))
    return found


def plain(name: str) -> str:
    """Without an article of its own: stamps are named "an apricot"."""
    return re.sub(r"^(a|an|the|some) ", "", name)


def _below(folder: Path, end: str) -> Path:
    """The folder that ends like this: `folder` itself, or below it as a Debian package has it."""
    for start in (folder, folder / "usr/share", *_parents(folder)):
        if (start / end).is_dir():
            return start / end
    raise UserError(f"{folder} does not hold {end}: see scripts/prepare_pictures.py --help")


def _parents(folder: Path) -> Iterator[Path]:
    """The folders above, for who names the package's own folder."""
    yield from list(folder.resolve().parents)[:2]
